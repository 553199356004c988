#!/usr/bin/env python3
"""`pairwise lm serve` through OpenAI's own client: `python3 benches/peers/openai_client.py http://127.0.0.1:8080/v1 [KEY]`.

Drives every form of the protocol that the server has with the `openai` package, streams with and without
log-probabilities, synchronous and asynchronous, and checks what comes back. Prints a line for each check; exits with 1
at the first that fails.
"""

import asyncio
import math
import sys

import openai

PROMPT = "Once upon a time"


def check(what, holds, found=None):
    print(f"{'ok  ' if holds else 'FAIL'} {what}" + ("" if holds or found is None else f": {found!r}"))
    if not holds:
        sys.exit(1)


def written(part):
    """A token's bytes as OpenAI writes them."""
    try:
        return part.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in part)


def completions(client, model):
    greedy = dict(model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    whole = client.completions.create(**greedy, logprobs=3)
    choice = whole.choices[0]
    told = choice.logprobs
    check("completion: text, reason, usage", choice.text and choice.finish_reason in ("stop", "length"), choice)
    check("completion: usage adds up",
          whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage)
    check("completion: system_fingerprint", bool(whole.system_fingerprint))
    check("log-probabilities: tokens are the text", "".join(told.tokens) == choice.text, told.tokens)
    check("log-probabilities: the likeliest token was written",
          all(math.isclose(max(top.values()), own) for top, own in zip(told.top_logprobs, told.token_logprobs)))
    check("log-probabilities: at most 3 others", all(1 <= len(top) <= 4 for top in told.top_logprobs))

    pieces = [piece.choices[0].text for piece in client.completions.create(**greedy, stream=True)]
    check("stream: pieces are the text", "".join(pieces) == choice.text and len(pieces) > 2, pieces)

    echo = client.completions.create(model=model, prompt=PROMPT + choice.text, max_tokens=0, echo=True, logprobs=1)
    read = echo.choices[0].logprobs
    check("echo: text", echo.choices[0].text == PROMPT + choice.text, echo.choices[0].text)
    check("echo: the first token has no log-probability", read.token_logprobs[0] is None)
    check("echo: nothing was written", echo.usage.completion_tokens == 0)
    if len(read.tokens) == whole.usage.prompt_tokens + len(told.tokens):
        pairs = list(zip(read.token_logprobs[whole.usage.prompt_tokens:], told.token_logprobs))
        check("echo: log-probabilities are those of writing",
              all(math.isclose(a, b, abs_tol=1e-4) for a, b in pairs), pairs)

    drawn = dict(model=model, prompt=[PROMPT, "The dog"], max_tokens=12, n=3, seed=11, top_p=0.95)
    first, again = (client.completions.create(**drawn) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    check("seed: the same texts", texts == [choice.text for choice in again.choices])
    check("several prompts and n: six texts in order", [choice.index for choice in first.choices] == list(range(6)))
    check("n: they differ", len(set(texts)) > 1, texts)

    stop = choice.text[len(choice.text) // 2:][:2]
    stopped = client.completions.create(**greedy, stop=[stop])
    check("stop: the text ends before it", stopped.choices[0].text == choice.text.split(stop)[0], stopped)
    check("stop: the reason", stopped.choices[0].finish_reason == "stop")
    pieces = [piece.choices[0].text for piece in client.completions.create(**greedy, stop=stop, stream=True)]
    check("stop: no piece of it is streamed", "".join(pieces) == choice.text.split(stop)[0], pieces)

    ids = client.completions.create(model=model, prompt=[5, 6, 7], max_tokens=3)
    check("token ids", ids.usage.prompt_tokens == 3, ids.usage)


def chats(client, model):
    messages = [{"role": "system", "content": "A story."},
                {"role": "user", "content": [{"type": "text", "text": "Once upon a time"}]}]
    asked = dict(model=model, messages=messages, max_completion_tokens=16, seed=3)
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=4)
    choice = whole.choices[0]
    check("chat: role", choice.message.role == "assistant")
    told = choice.logprobs.content
    # A part of a character has its own bytes, and is written as OpenAI does; a special token stands for no text.
    own = [bytes(one.bytes or []) for one in told]
    check("chat: bytes are the text", b"".join(own).decode(errors="replace") == choice.message.content, own)
    check("chat: tokens are their bytes",
          all(one.token == written(part) for one, part in zip(told, own) if one.bytes is not None), told)
    check("chat: the likeliest ones are theirs, too, and differ",
          all(top.bytes is None or top.token == written(bytes(top.bytes)) for one in told for top in one.top_logprobs)
          and all(len({top.token for top in one.top_logprobs}) == 4 for one in told))
    check("chat: 4 likeliest, in order",
          all(len(one.top_logprobs) == 4 and sorted(one.top_logprobs, key=lambda top: -top.logprob) == one.top_logprobs
              for one in told))

    stream = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)
    check("chat stream: pieces are the text", text == choice.message.content, text)
    check("chat stream: begins with the role", stream[0].choices[0].delta.role == "assistant")
    check("chat stream: usage comes last", stream[-1].usage == whole.usage and not stream[-1].choices, stream[-1])

    with_log_probs = list(client.chat.completions.create(**asked, stream=True, logprobs=True, top_logprobs=2))
    tokens = [one for piece in with_log_probs if piece.choices and piece.choices[0].logprobs
              for one in piece.choices[0].logprobs.content]
    check("chat stream: log-probabilities",
          [one.logprob for one in tokens] == [one.logprob for one in told], tokens)


def errors(client, model):
    def refused(kind, word, call):
        try:
            call()
        except kind as error:
            check(f"refused: {word}", word in str(error), str(error))
        else:
            check(f"refused: {word}", False)

    complete, chat = client.completions.create, client.chat.completions.create
    hello = [{"role": "user", "content": "Hello"}]
    bad, missing = openai.BadRequestError, openai.NotFoundError
    refused(missing, "there is only", lambda: complete(model="another", prompt="a"))
    refused(bad, "temperature", lambda: complete(model=model, prompt="a", temperature=-1))
    refused(bad, "best_of", lambda: complete(model=model, prompt="a", best_of=2))
    refused(bad, "context", lambda: complete(model=model, prompt="a", max_tokens=10 ** 6))
    refused(bad, "tools", lambda: chat(model=model, messages=hello,
                                       tools=[{"type": "function", "function": {"name": "f"}}]))
    refused(bad, "response_format", lambda: chat(model=model, messages=hello, response_format={"type": "json_object"}))
    refused(bad, "messages", lambda: chat(model=model, messages=[]))
    refused(missing, "/v1/embeddings", lambda: client.embeddings.create(model=model, input="a"))


async def together(url, key, model):
    """Eight requests at a time are answered as one by one."""
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        async def one(seed):
            stream = await client.completions.create(model=model, prompt=PROMPT, max_tokens=20, seed=seed, stream=True)
            return "".join([piece.choices[0].text async for piece in stream])

        alone = [await one(seed) for seed in range(8)]
        check("at the same time: the same texts", await asyncio.gather(*map(one, range(8))) == alone, alone)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    url, key = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "none"
    if key != "none":
        with openai.OpenAI(base_url=url, api_key=key + "x", max_retries=0) as stranger:
            try:
                stranger.models.list()
            except openai.AuthenticationError as error:
                check("another key is refused, and not repeated", key not in str(error), str(error))
            else:
                check("another key is refused", False)
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        models = client.models.list().data
        check("models", len(models) == 1, models)
        model = models[0].id
        check("a model by its name", client.models.retrieve(model).id == model)
        completions(client, model)
        chats(client, model)
        errors(client, model)
    asyncio.run(together(url, key, model))
    print(f"openai {openai.__version__}: all checks hold for {model}")


if __name__ == "__main__":
    main()
