//! Rows as token ids, under named conventions.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::read::{DataError, Skipped};
use super::row::{CompletionRow, Content, Origin, PreferenceRow, PromptRow, RowProblem, common_prefix};
use crate::lm::chat::{ChatError, ChatTemplate, Extras};
use crate::lm::tokenizer::Tokenizer;
use crate::range::OutOfRange;

/// Where a completion begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// TRL 1.16: the prompt alone and prompt + completion are tokenised. The completion begins where the two differ.
    Together,
    /// The DPO reference: prompt and completion are tokenised separately, without special tokens (no BOS), and joined.
    /// Neither may hold EOS.
    Separate,
    /// MODPO's repository: a completion begins where chosen and rejected differ, so that a beginning they share is not
    /// scored. A single completion begins as in `Together`.
    CommonPrefix,
}

/// How a completion ends. It does not apply to chats, which end as their template says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eos {
    /// TRL: EOS is appended as text before tokenising, unless it is there.
    AppendText,
    /// The DPO reference: EOS is appended as a token, unless it is there.
    AppendId,
    /// No EOS is added.
    None,
}

/// What is done with rows that have too many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// TRL: keeps the first `max_length` tokens. A row whose prompt alone fills them is dropped.
    KeepStart,
    /// TRL, deprecated there: keeps the last `max_length` tokens.
    KeepEnd,
    /// The DPO reference's for HH: keeps the last `max_prompt_length` tokens of the prompt and, if that is not enough,
    /// the first `max_length` − `max_prompt_length` tokens of the completions. EOS may be lost.
    Reference,
    /// MODPO's repository: rows longer than `max_length` are dropped.
    Filter,
    /// A row longer than `max_length` stops the run.
    Error,
}

/// How rows become token ids. Systems differ in these choices without saying so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conventions {
    /// Where a completion begins.
    pub boundary: Boundary,
    /// How it ends.
    pub eos: Eos,
    /// What is done with long rows.
    pub truncation: Truncation,
    /// Most tokens of prompt and completion together.
    pub max_length: usize,
    /// Most tokens of a prompt without a completion and, where `truncation` is `reference`, of the prompt of a row that
    /// is too long.
    pub max_prompt_length: usize,
}

/// Prompt and completion as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids of both, one after the other.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's. With 0, nothing predicts the first token, so it has no probability.
    pub prompt_len: usize,
}

/// A comparison as token ids. Both sides begin with the ids of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedPair {
    /// Number of its row among the rows that were encoded.
    pub row: usize,
    /// The preferred one.
    pub chosen: Encoded,
    /// The other one.
    pub rejected: Encoded,
    /// As in the row.
    pub margin: Option<f64>,
    /// As in the row.
    pub target: Option<f64>,
}

/// A demonstration as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedCompletion {
    /// Number of its row among the rows that were encoded.
    pub row: usize,
    /// Prompt and completion.
    pub encoded: Encoded,
    /// As in the row.
    pub label: Option<bool>,
}

/// A prompt as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Number of its row among the rows that were encoded.
    pub row: usize,
    /// Ids.
    pub ids: Vec<u32>,
}

/// What encoding did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeReport {
    /// Rows there were.
    pub rows: usize,
    /// Rows whose prompt has other tokens alone than within prompt + completion. The model is then trained on a prompt
    /// that it does not meet when it is asked.
    pub prompt_not_prefix: usize,
    /// Rows that were shortened.
    pub cut: usize,
    /// Rows that were left out because they are too long.
    pub dropped: Skipped,
}

/// Texts as one sequence of tokens, EOS after each, for training in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Token ids; their number is a multiple of `context`.
    pub ids: Vec<u32>,
    /// Tokens of a block.
    pub context: usize,
    /// Tokens at the end that did not fill a block.
    pub dropped_tokens: usize,
}

/// Texts that are tokenised together while packing: enough for all threads, and little memory.
const PACK_BATCH: usize = 1024;

impl Default for Conventions {
    /// TRL 1.16's for DPO. (`max_prompt_length` is the DPO reference's; TRL has none any more.)
    fn default() -> Self {
        Self {
            boundary: Boundary::Together,
            eos: Eos::AppendText,
            truncation: Truncation::KeepStart,
            max_length: 1024,
            max_prompt_length: 512,
        }
    }
}

impl Conventions {
    /// Checks the lengths.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let Self { max_length, max_prompt_length, truncation, .. } = *self;
        let check = |field, found: usize, fine, expected| OutOfRange::check(field, found as f64, fine, expected);
        check("max_length", max_length, max_length >= 2, "at least 2, for a token and what comes before it")?;
        check("max_prompt_length", max_prompt_length, max_prompt_length >= 1, "at least 1")?;
        let fine = truncation != Truncation::Reference || max_prompt_length < max_length;
        check("max_prompt_length", max_prompt_length, fine, "below max_length, where truncation is reference")
    }

    /// The conventions for a model with a context of so many tokens.
    #[must_use]
    pub fn within(&self, context: usize) -> Self {
        let mut conventions = self.clone();
        if conventions.max_length > context {
            conventions.max_length = context;
            conventions.max_prompt_length = conventions.max_prompt_length.min(context - 1);
        }
        conventions
    }
}

/// Encodes comparisons, in their order, with all threads.
///
/// # Errors
/// A chat without a template, a row that cannot be encoded or is too long under [`Truncation::Error`], and no row left.
pub fn encode_pairs(
    rows: &[PreferenceRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedPair>, EncodeReport), DataError> {
    encode_rows(rows, conventions, |row, PreferenceRow { origin, prompt, extras, chosen, rejected, margin, target }| {
        let sides = encode((prompt, extras), &[chosen, rejected], origin, tokenizer, template, conventions)?;
        Ok(sides.map(|sides| {
            let [chosen, rejected] = <[Encoded; 2]>::try_from(sides).expect("one side was encoded for each of two");
            EncodedPair { row, chosen, rejected, margin: *margin, target: *target }
        }))
    })
}

/// Encodes demonstrations; see [`encode_pairs`].
///
/// # Errors
/// As [`encode_pairs`].
pub fn encode_completions(
    rows: &[CompletionRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedCompletion>, EncodeReport), DataError> {
    encode_rows(rows, conventions, |row, CompletionRow { origin, prompt, extras, completion, label }| {
        let sides = encode((prompt, extras), &[completion], origin, tokenizer, template, conventions)?;
        Ok(sides.map(|mut sides| {
            let encoded = sides.pop().expect("one side was encoded");
            EncodedCompletion { row, encoded, label: *label }
        }))
    })
}

/// Encodes prompts as [`encode_completions`] encodes a prompt before its completion. A prompt of more than
/// `max_prompt_length` tokens loses its beginning (`keep-end`, `reference`), is dropped (`keep-start`, `filter`) or
/// stops the run (`error`).
///
/// # Errors
/// As [`encode_pairs`].
pub fn encode_prompts(
    rows: &[PromptRow],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<(Vec<EncodedPrompt>, EncodeReport), DataError> {
    let limit = conventions.max_prompt_length;
    encode_rows(rows, conventions, |row, PromptRow { origin, prompt, extras }| {
        let (text, special) = render((prompt, extras), &[], true, origin, template)?;
        let mut ids = tokenizer.encode(&text, special && conventions.boundary != Boundary::Separate)?;
        let length = ids.len();
        let cut = length > limit;
        if cut {
            let too_long = DataError::TooLong { origin: origin.clone(), what: "the prompt", length, limit };
            match conventions.truncation {
                Truncation::KeepEnd | Truncation::Reference => _ = ids.drain(..length - limit),
                Truncation::KeepStart | Truncation::Filter => return Ok(Outcome::Dropped(too_long)),
                Truncation::Error => return Err(too_long),
            }
        }
        Ok(Outcome::Kept { item: EncodedPrompt { row, ids }, cut, not_prefix: false })
    })
}

/// Packs texts into blocks of `context` tokens, one text after another with EOS after each, as in GPT-2's pre-training
/// and TRL's `packing_strategy="wrapped"`. The tokens at the end that fill no block are left out. Each text begins with
/// BOS where the tokenizer adds it. Only EOS separates the texts of a block: a token also sees earlier texts.
///
/// # Errors
/// A text that cannot be encoded, a tokenizer without EOS, or too little text for one block.
pub fn pack(texts: &[String], tokenizer: &Tokenizer, context: usize) -> Result<Packed, DataError> {
    OutOfRange::check("context", context as f64, context >= 2, "at least 2 tokens")?;
    let Some(eos) = &tokenizer.special().eos else {
        let problem = "the tokenizer has no EOS token, which must separate them (eos_token in tokenizer_config.json)";
        return Err(DataError::Packing(problem.to_owned()));
    };
    let mut ids = Vec::new();
    for batch in texts.chunks(PACK_BATCH) {
        let encoded = batch.par_iter().map(|text| tokenizer.encode(text, true));
        for mut text in encoded.collect::<Result<Vec<_>, _>>()? {
            if text.last() == Some(&eos.id) {
                text.pop();
            }
            ids.append(&mut text);
            ids.push(eos.id);
        }
    }
    let dropped_tokens = ids.len() % context;
    ids.truncate(ids.len() - dropped_tokens);
    if ids.is_empty() {
        let found = format!("there are {dropped_tokens} tokens in {} documents", texts.len());
        return Err(DataError::Packing(format!("{found}: must fill a block of {context}")));
    }
    Ok(Packed { ids, context, dropped_tokens })
}

impl Packed {
    /// The blocks, each `[context]`.
    pub fn blocks(&self) -> impl Iterator<Item = &[u32]> {
        self.ids.chunks_exact(self.context)
    }
}

impl Encoded {
    /// A prompt with a completion.
    #[must_use]
    pub fn new(prompt: &[u32], completion: &[u32]) -> Self {
        Self { ids: [prompt, completion].concat(), prompt_len: prompt.len() }
    }

    /// The prompt's ids.
    #[must_use]
    pub fn prompt(&self) -> &[u32] {
        &self.ids[..self.prompt_len]
    }

    /// The completion's ids.
    #[must_use]
    pub fn completion(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }
}

/// What became of a row. A dropped row comes with its error.
enum Outcome<T> {
    Kept { item: T, cut: bool, not_prefix: bool },
    Dropped(DataError),
}

impl<T> Outcome<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Kept { item, cut, not_prefix } => Outcome::Kept { item: f(item), cut, not_prefix },
            Self::Dropped(why) => Outcome::Dropped(why),
        }
    }
}

fn encode_rows<R: Sync, T: Send>(
    rows: &[R],
    conventions: &Conventions,
    encode: impl Fn(usize, &R) -> Result<Outcome<T>, DataError> + Sync,
) -> Result<(Vec<T>, EncodeReport), DataError> {
    conventions.validate()?;
    let outcomes: Vec<_> = rows.par_iter().enumerate().map(|(i, row)| encode(i, row)).collect();
    let mut report = EncodeReport { rows: rows.len(), ..EncodeReport::default() };
    let mut items = Vec::with_capacity(rows.len());
    // Errors are looked for in the order of rows, so that the first one is named with any number of threads.
    for outcome in outcomes {
        match outcome? {
            Outcome::Kept { item, cut, not_prefix } => {
                report.cut += usize::from(cut);
                report.prompt_not_prefix += usize::from(not_prefix);
                items.push(item);
            }
            Outcome::Dropped(why) => report.dropped.add(why.to_string()),
        }
    }
    match report.dropped.first.first() {
        Some(first) if items.is_empty() => Err(DataError::NothingLeft { rows: rows.len(), first: first.clone() }),
        _ => Ok((items, report)),
    }
}

/// The text of a prompt followed by a completion, and whether the tokenizer's special tokens belong around it.
fn render(
    (prompt, extras): (&Content, &Extras),
    completion: &[&Content],
    add_generation_prompt: bool,
    origin: &Origin,
    template: Option<&ChatTemplate>,
) -> Result<(String, bool), DataError> {
    let chat_error = |source| DataError::Chat { origin: origin.clone(), source: Box::new(source) };
    match prompt {
        Content::Text(prompt) => {
            let mut text = prompt.clone();
            for part in completion {
                if let Content::Text(part) = part {
                    text.push_str(part);
                }
            }
            Ok((text, true))
        }
        Content::Chat(prompt) => {
            let template = template.ok_or(ChatError::Missing).map_err(chat_error)?;
            let mut messages = prompt.clone();
            for part in completion {
                if let Content::Chat(part) = part {
                    messages.extend_from_slice(part);
                }
            }
            Ok((template.render_with(&messages, extras, add_generation_prompt).map_err(chat_error)?, false))
        }
    }
}

/// Token ids of a prompt with each of its completions.
fn encode(
    prompt: (&Content, &Extras),
    completions: &[&Content],
    origin: &Origin,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    conventions: &Conventions,
) -> Result<Outcome<Vec<Encoded>>, DataError> {
    let is_chat = matches!(prompt.0, Content::Chat(_));
    let eos = tokenizer.special().eos.as_ref().filter(|_| !is_chat && conventions.eos != Eos::None);
    let (prompt_text, special) = render(prompt, &[], true, origin, template)?;
    let mut full_texts = Vec::with_capacity(completions.len());
    for completion in completions {
        let (mut text, _) = render(prompt, &[completion], false, origin, template)?;
        if let (Some(eos), Eos::AppendText) = (eos, conventions.eos)
            && !text[prompt_text.len()..].ends_with(&eos.text)
        {
            text.push_str(&eos.text);
        }
        full_texts.push(text);
    }
    let append_id = |ids: &mut Vec<u32>| {
        if let (Some(eos), Eos::AppendId) = (eos, conventions.eos)
            && ids.last() != Some(&eos.id)
        {
            ids.push(eos.id);
        }
    };
    let mut not_prefix = false;
    let mut sides: Vec<Encoded> = Vec::with_capacity(full_texts.len());
    if conventions.boundary == Boundary::Separate {
        // A template may render a prompt in another way when an answer follows.
        let shared = |text: &String| common_prefix(prompt_text.as_bytes(), text.as_bytes());
        let mut at = full_texts.iter().map(shared).min().unwrap_or(0);
        while !prompt_text.is_char_boundary(at) {
            at -= 1;
        }
        not_prefix = at < prompt_text.len();
        let prompt_ids = tokenizer.encode(&prompt_text[..at], false)?;
        for text in &full_texts {
            let mut ids = tokenizer.encode(&text[at..], false)?;
            append_id(&mut ids);
            if let Some(eos) = eos
                && prompt_ids.iter().chain(&ids[..ids.len().saturating_sub(1)]).any(|&id| id == eos.id)
            {
                let reason = format!("holds the EOS token {:?}; expected texts without it", eos.text);
                return Err(DataError::Row { origin: origin.clone(), problem: RowProblem::Fields(reason) });
            }
            sides.push(Encoded::new(&prompt_ids, &ids));
        }
    } else {
        let prompt_ids = tokenizer.encode(&prompt_text, special)?;
        for text in &full_texts {
            let mut ids = tokenizer.encode(text, special)?;
            append_id(&mut ids);
            sides.push(Encoded { prompt_len: common_prefix(&prompt_ids, &ids), ids });
        }
        let shortest = sides.iter().map(|side| side.prompt_len).min().unwrap_or(0);
        not_prefix |= shortest < prompt_ids.len();
        let shared = match (conventions.boundary, &sides[..]) {
            (Boundary::CommonPrefix, [a, b]) => common_prefix(&a.ids, &b.ids),
            _ => shortest,
        };
        // Each side keeps a token to be scored. If one side is the beginning of the other, this token is in both.
        let least = sides.iter().map(|side| side.ids.len()).min().unwrap_or(0);
        let prompt_len = shared.min(least.saturating_sub(1));
        sides.iter_mut().for_each(|side| side.prompt_len = prompt_len);
    }
    truncate(sides, origin, conventions).map(|outcome| match outcome {
        Outcome::Kept { item, cut, .. } => Outcome::Kept { item, cut, not_prefix },
        dropped @ Outcome::Dropped(_) => dropped,
    })
}

fn truncate(
    mut sides: Vec<Encoded>,
    origin: &Origin,
    conventions: &Conventions,
) -> Result<Outcome<Vec<Encoded>>, DataError> {
    let Conventions { truncation, max_length: limit, max_prompt_length, .. } = *conventions;
    let longest = sides.iter().map(|side| side.ids.len()).max().unwrap_or(0);
    let prompt_len = sides.first().map_or(0, |side| side.prompt_len);
    let cut = longest > limit;
    if !cut {
        return Ok(Outcome::Kept { item: sides, cut, not_prefix: false });
    }
    let (what, length) = if prompt_len >= limit { ("the prompt", prompt_len) } else { ("the row", longest) };
    let too_long = DataError::TooLong { origin: origin.clone(), what, length, limit };
    match truncation {
        Truncation::KeepStart if prompt_len >= limit => return Ok(Outcome::Dropped(too_long)),
        Truncation::KeepStart => sides.iter_mut().for_each(|side| side.ids.truncate(limit)),
        Truncation::KeepEnd => {
            for side in &mut sides {
                let excess = side.ids.len().saturating_sub(limit);
                side.ids.drain(..excess);
                side.prompt_len = side.prompt_len.saturating_sub(excess);
            }
        }
        Truncation::Reference => {
            let excess = prompt_len.saturating_sub(max_prompt_length);
            let completions_too = longest - excess > limit;
            for side in &mut sides {
                side.ids.drain(..excess);
                side.prompt_len -= excess;
                if completions_too {
                    side.ids.truncate(side.prompt_len + limit - max_prompt_length);
                }
            }
        }
        Truncation::Filter => return Ok(Outcome::Dropped(too_long)),
        Truncation::Error => return Err(too_long),
    }
    Ok(Outcome::Kept { item: sides, cut, not_prefix: false })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{
        Boundary, Conventions, Encoded, Eos, Truncation, encode_completions, encode_pairs, encode_prompts, pack,
    };
    use crate::fixtures::own;
    use crate::lm::chat::{ChatTemplate, HH};
    use crate::lm::data::tests::rows_of;
    use crate::lm::data::{CompletionRow, PreferenceRow, PromptRow, ReadConfig, read_all};
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> PreferenceRow {
        let row = serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        rows_of(&row.to_string()).unwrap().remove(0)
    }

    /// One token for each byte; EOS is token 0, and nothing is added around a text.
    fn bytes() -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        Tokenizer::train(std::iter::empty(), &config).unwrap()
    }

    /// Prompt and completion, EOS written as `$`.
    fn spelled(encoded: &Encoded) -> (String, String) {
        let spell = |ids: &[u32]| bytes().decode(ids, false).unwrap().replace("<|endoftext|>", "$");
        (spell(encoded.prompt()), spell(encoded.completion()))
    }

    /// Values of TRL 1.16.0: `DPOTrainer._prepare_dataset` and its collator.
    #[test]
    fn pairs_have_the_ids_that_trl_gives_them() {
        let path = own("prefs/pairs.jsonl");
        let tokenizer = Tokenizer::load(&own("hf/llama")).unwrap();
        let (rows, _) = read_all::<PreferenceRow>(std::slice::from_ref(&path), &ReadConfig::default()).unwrap();
        let trl = Conventions::default();
        let (pairs, report) = encode_pairs(&rows, &tokenizer, None, &trl).unwrap();
        assert_eq!((pairs.len(), report.cut, report.dropped.count, report.prompt_not_prefix), (64, 0, 0, 0));
        let expected = std::fs::read_to_string(&path).unwrap();
        for (pair, line) in pairs.iter().zip(expected.lines()) {
            let expected: Value = serde_json::from_str(line).unwrap();
            let ids = |name: &str| serde_json::from_value::<Vec<u32>>(expected[name].clone()).unwrap();
            assert_eq!(pair.chosen.prompt(), ids("prompt_ids"));
            assert_eq!(pair.rejected.prompt(), ids("prompt_ids"));
            assert_eq!(pair.chosen.completion(), ids("chosen_ids"));
            assert_eq!(pair.rejected.completion(), ids("rejected_ids"));
        }

        let short = Conventions { max_length: 20, ..trl.clone() };
        let (cut, report) = encode_pairs(&rows[..6], &tokenizer, None, &short).unwrap();
        assert_eq!(
            cut.iter().map(|pair| pair.row).collect::<Vec<_>>(),
            [0, 2, 3, 4, 5],
            "row 1's prompt has 20 tokens"
        );
        assert_eq!((report.cut, report.dropped.count, report.rows), (5, 1, 6));
        assert!(report.dropped.first[0].ends_with("pairs.jsonl: line 2: the prompt has 20 tokens, the limit is 20"));
        for (cut, prompt_len) in cut.iter().zip([18, 16, 19, 19, 19]) {
            let whole = &pairs[cut.row];
            assert_eq!((&cut.chosen.ids[..], cut.chosen.prompt_len), (&whole.chosen.ids[..20], prompt_len));
            assert_eq!((&cut.rejected.ids[..], cut.rejected.prompt_len), (&whole.rejected.ids[..20], prompt_len));
        }

        let end = Conventions { truncation: Truncation::KeepEnd, ..short };
        let (cut, report) = encode_pairs(&rows[..6], &tokenizer, None, &end).unwrap();
        assert_eq!((report.cut, report.dropped.count), (6, 0));
        for (cut, prompt_len) in cut.iter().zip([[0, 0], [0, 1], [0, 1], [1, 1], [6, 0], [1, 0]]) {
            let (whole, tail) = (&pairs[cut.row], |ids: &[u32]| ids[ids.len() - 20..].to_vec());
            assert_eq!((&cut.chosen.ids, cut.chosen.prompt_len), (&tail(&whole.chosen.ids), prompt_len[0]));
            assert_eq!((&cut.rejected.ids, cut.rejected.prompt_len), (&tail(&whole.rejected.ids), prompt_len[1]));
        }

        for (row, chosen, rejected, prompt_len, is_prefix) in [
            (
                pair("I love th", "ee, my lord.", "is fair maid and th"),
                &[0, 43, 478, 417, 14, 309, 449, 16, 1][..],
                &[0, 43, 478, 371, 405, 316, 265, 67, 363, 303, 286, 1][..],
                3,
                false,
            ),
            (
                pair("The king ", "is dead.", " speaks"),
                &[0, 349, 518, 330, 359, 338, 16, 1],
                &[0, 349, 518, 223, 420, 589, 85, 1],
                3,
                false,
            ),
            (pair("", "Come.", "Go."), &[0, 37, 341, 16, 1], &[0, 41, 81, 16, 1], 1, true),
            (
                pair("What is it?", " Nothing.</s>", " Nothing"),
                &[0, 474, 330, 351, 33, 223, 48, 497, 298, 16, 1],
                &[0, 474, 330, 351, 33, 223, 48, 497, 298, 1],
                5,
                true,
            ),
        ] {
            let (pairs, report) = encode_pairs(&[row], &tokenizer, None, &trl).unwrap();
            assert_eq!(pairs[0].chosen, Encoded { ids: chosen.to_vec(), prompt_len });
            assert_eq!(pairs[0].rejected, Encoded { ids: rejected.to_vec(), prompt_len });
            assert_eq!(report.prompt_not_prefix, usize::from(!is_prefix));
        }

        let template = "{% for m in messages %}{% if m.role=='user' %}[U] {{ m.content }} [/U]{% else %} \
                        {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}";
        let template = ChatTemplate::new(template, tokenizer.special(), None).unwrap();
        let row = r#"{"prompt": [{"role": "user", "content": "What is it?"}], "rejected": "The king is dead.",
                      "chosen": [{"role": "assistant", "content": "Nothing, my lord."}]}"#;
        let rows = rows_of::<PreferenceRow>(&row.replace('\n', "")).unwrap();
        let (pairs, report) = encode_pairs(&rows, &tokenizer, Some(&template), &trl).unwrap();
        let chosen = [61, 55, 63, 223, 474, 330, 351, 33, 223, 61, 17, 55, 63, 223, 48, 497, 298, 14, 309, 449, 16, 1];
        let rejected = [61, 55, 63, 223, 474, 330, 351, 33, 223, 61, 17, 55, 63, 223, 349, 518, 330, 359, 338, 16, 1];
        assert_eq!(pairs[0].chosen, Encoded { ids: chosen.to_vec(), prompt_len: 14 });
        assert_eq!(pairs[0].rejected, Encoded { ids: rejected.to_vec(), prompt_len: 14 });
        assert_eq!(report.prompt_not_prefix, 0);
        let error = encode_pairs(&rows, &tokenizer, None, &trl).unwrap_err().to_string();
        assert!(error.contains("line 1: the rows are chats") && error.contains("\"hh\""), "{error}");
    }

    /// One row under every rule, by hand: `0123456789` is answered with `abcdefgh` or `abX`.
    #[test]
    fn conventions_do_what_they_say() {
        use Boundary::{CommonPrefix, Separate, Together};
        use Truncation::{Error, Filter, KeepEnd, KeepStart, Reference};
        let rows = [pair("0123456789", "abcdefgh", "abX")];
        for (boundary, eos, truncation, max_length, expected) in [
            (Together, Eos::AppendText, Error, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (Separate, Eos::AppendId, Error, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (CommonPrefix, Eos::None, Error, 18, ["0123456789ab|cdefgh", "0123456789ab|X"]),
            (Together, Eos::None, KeepStart, 12, ["0123456789|ab", "0123456789|ab"]),
            (Together, Eos::AppendId, KeepEnd, 12, ["789|abcdefgh$", "23456789|abX$"]),
            (Separate, Eos::AppendId, Reference, 14, ["56789|abcdefgh$", "56789|abX$"]),
            (Separate, Eos::AppendId, Reference, 12, ["56789|abcdefg", "56789|abX$"]),
            (Separate, Eos::AppendId, Reference, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
            (Together, Eos::AppendId, Filter, 19, ["0123456789|abcdefgh$", "0123456789|abX$"]),
        ] {
            let conventions = Conventions { boundary, eos, truncation, max_length, max_prompt_length: 5 };
            let (pairs, _) = encode_pairs(&rows, &bytes(), None, &conventions).unwrap();
            let sides = [&pairs[0].chosen, &pairs[0].rejected].map(spelled).map(|(p, c)| format!("{p}|{c}"));
            assert_eq!(sides, expected, "{conventions:?}");
        }
        let conventions = |truncation, max_length| Conventions { truncation, max_length, ..Conventions::default() };
        let error = encode_pairs(&rows, &bytes(), None, &conventions(Error, 18)).unwrap_err().to_string();
        assert!(error.ends_with("line 1: the row has 19 tokens, the limit is 18"), "{error}");
        for (truncation, limit) in [(Filter, 18), (KeepStart, 10)] {
            let error = encode_pairs(&rows, &bytes(), None, &conventions(truncation, limit)).unwrap_err().to_string();
            assert!(error.starts_with("no row is left of 1: all are too long; the first: "), "{error}");
        }
        let separate = Conventions { boundary: Separate, ..Conventions::default() };
        let error = encode_pairs(&[pair("a<|endoftext|>", "b", "c")], &bytes(), None, &separate).unwrap_err();
        assert!(error.to_string().contains("line 1: holds the EOS token \"<|endoftext|>\""), "{error}");
        let wrong =
            Conventions { max_prompt_length: 9, max_length: 9, truncation: Reference, ..Conventions::default() };
        let error = encode_pairs(&rows, &bytes(), None, &wrong).unwrap_err().to_string();
        assert_eq!(error, "max_prompt_length = 9: must be below max_length, where truncation is reference");
    }

    #[test]
    fn eos_that_is_there_is_not_doubled() {
        for eos in [Eos::AppendText, Eos::AppendId] {
            let conventions = Conventions { eos, ..Conventions::default() };
            let (pairs, _) = encode_pairs(&[pair("p", "a<|endoftext|>", "b")], &bytes(), None, &conventions).unwrap();
            assert_eq!([&pairs[0].chosen, &pairs[0].rejected].map(|side| spelled(side).1), ["a$", "b$"], "{eos:?}");
        }
    }

    /// Nothing but the common beginning would be left of the shorter one.
    #[test]
    fn every_completion_keeps_a_token() {
        let conventions = Conventions { boundary: Boundary::CommonPrefix, eos: Eos::None, ..Conventions::default() };
        let (pairs, _) = encode_pairs(&[pair("p", "ab", "abc")], &bytes(), None, &conventions).unwrap();
        assert_eq!(spelled(&pairs[0].chosen), ("pa".into(), "b".into()));
        assert_eq!(spelled(&pairs[0].rejected), ("pa".into(), "bc".into()));
    }

    #[test]
    fn demonstrations_and_prompts_agree_about_the_prompt() {
        let lines = r#"{"prompt": "one", "completion": " two", "label": false}
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}"#;
        let rows = rows_of::<CompletionRow>(lines).unwrap();
        let template = ChatTemplate::new(HH, bytes().special(), None).unwrap();
        let conventions = Conventions::default();
        let (completions, _) = encode_completions(&rows, &bytes(), Some(&template), &conventions).unwrap();
        assert_eq!(spelled(&completions[0].encoded), ("one".into(), " two$".into()));
        assert_eq!(completions[0].label, Some(false));
        assert_eq!(spelled(&completions[1].encoded), ("\n\nHuman: Hi\n\nAssistant:".into(), " Yes$".into()));
        let prompts: Vec<PromptRow> = rows
            .iter()
            .map(|row| PromptRow { origin: row.origin.clone(), prompt: row.prompt.clone(), extras: row.extras.clone() })
            .collect();
        let (encoded, _) = encode_prompts(&prompts, &bytes(), Some(&template), &conventions).unwrap();
        for (prompt, completion) in encoded.iter().zip(&completions) {
            assert_eq!(prompt.ids, completion.encoded.prompt());
        }
        let short = Conventions { max_prompt_length: 10, ..conventions };
        let (encoded, report) = encode_prompts(&prompts, &bytes(), Some(&template), &short).unwrap();
        assert_eq!((encoded.len(), report.dropped.count, encoded[0].row), (1, 1, 0));
        let end = Conventions { truncation: Truncation::KeepEnd, ..short };
        let (encoded, report) = encode_prompts(&prompts, &bytes(), Some(&template), &end).unwrap();
        assert_eq!((bytes().decode(&encoded[1].ids, false).unwrap().as_str(), report.cut), ("Assistant:", 1));
    }

    #[test]
    fn texts_are_packed_with_eos_after_each() {
        let tokenizer = bytes();
        let texts = ["ab", "c<|endoftext|>", "de"].map(str::to_owned);
        let packed = pack(&texts, &tokenizer, 3).unwrap();
        let blocks: Vec<String> = packed.blocks().map(|block| tokenizer.decode(block, false).unwrap()).collect();
        assert_eq!(blocks, ["ab<|endoftext|>", "c<|endoftext|>d"]);
        assert_eq!(packed.dropped_tokens, 2);
        let error = pack(&[], &tokenizer, 3).unwrap_err().to_string();
        assert!(error.contains("0 tokens in 0 documents"), "{error}");
    }
}
