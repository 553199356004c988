//! `lm sample`, `chat`.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use clap::Args;
use cpu_time::ProcessTime;
use serde_json::json;

use super::shared::{RowsArgs, TemplateArgs};
use crate::cli::failure::Failure;
use crate::cli::flags::{SeedArgs, SharedArgs, template_time};
use crate::cli::screen::{note, print_line, print_text, remark, shown as place, write};
use crate::device::{self, DeviceChoice};
use crate::lm::chat::{ChatTemplate, Message};
use crate::lm::config::Output;
use crate::lm::data::{self, Conventions, PromptRow, Truncation};
use crate::lm::folder;
use crate::lm::model::Decoder;
use crate::lm::run::{eos_of, tokenizer_of};
use crate::lm::sample::{Finish, SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;

/// How tokens are drawn.
#[derive(Debug, Args)]
struct DrawArgs {
    /// Most tokens of a completion
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// Temperature, which divides the logits; 0 takes the likeliest token
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw among this many likeliest tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Draw among the likeliest tokens whose probabilities add up to this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw among tokens whose probability is at least this share of the likeliest one's
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// End a completion before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    seed: SeedArgs,
    /// Round weights to 8-bit integers with a scale for every 32: a larger model then writes a single text two to three
    /// times as fast, but not always the same text
    #[arg(long)]
    quantize: bool,
}

/// Arguments of `lm sample`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SampleArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to complete; may be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Rows {"prompt"} to complete
    #[arg(long, value_name = "FILE,FILE,…")]
    data: Vec<PathBuf>,
    /// Completions of each prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
    #[command(flatten)]
    draw: DrawArgs,
    #[command(flatten)]
    rows: RowsArgs,
    /// Write rows {"prompt", "completion", "finish"} to this file instead of text to the screen
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show the tokens of a single completion as they come
    #[arg(long)]
    stream: bool,
    /// Go on after a token that ends a text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Arguments of `lm chat`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChatArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    draw: DrawArgs,
}

/// A model that writes, with its tokenizer; what is peculiar about it is told.
fn writer(model: &Path) -> Result<(Decoder, Tokenizer), Failure> {
    let loaded = folder::read(model, &device::pick(DeviceChoice::Cpu)?)?;
    loaded.remarks.iter().chain(&loaded.sampling).for_each(|text| note(text));
    let tokenizer = tokenizer_of(model, &loaded)?;
    if loaded.decoder.config.output != Output::Tokens {
        return Err(Failure::usage(format!("{}: is a model that scores; give one that writes", model.display())));
    }
    Ok((loaded.decoder, tokenizer))
}

pub(super) fn sample(args: &SampleArgs) -> Result<(), Failure> {
    args.shared.threads.apply()?;
    let started = Instant::now();
    let (model, tokenizer) = writer(&args.model)?;
    let config = args.draw.config()?;
    let (mut shown, mut prompts) = (Vec::new(), Vec::new());
    for text in &args.prompt {
        shown.push(json!(text));
        prompts.push(tokenizer.encode(text, true)?);
    }
    if !args.data.is_empty() {
        let rows: Vec<PromptRow> = args.rows.read(&args.data)?;
        let template = ChatTemplate::wanted(&tokenizer, args.rows.chat_template.as_deref(), args.rows.time()?)?;
        let room = model.config.context.saturating_sub(1).max(1);
        let conventions = Conventions {
            truncation: Truncation::Error,
            max_length: model.config.context,
            max_prompt_length: room,
            ..Conventions::default()
        };
        let (encoded, _) = data::encode_prompts(&rows, &tokenizer, template.as_ref(), &conventions)?;
        for prompt in encoded {
            shown.push(serde_json::to_value(&rows[prompt.row].prompt)?);
            prompts.push(prompt.ids);
        }
    }
    if prompts.is_empty() {
        return Err(Failure::usage("nothing to complete: give --prompt TEXT, or --data FILE with rows {\"prompt\"}"));
    }
    for (prompt, ids) in shown.iter().zip(&mut prompts) {
        if ids.is_empty() {
            // A model that was trained on texts between EOS tokens begins one after it.
            let begin = tokenizer.special().bos.as_ref().or(tokenizer.special().eos.as_ref());
            ids.push(
                begin
                    .ok_or_else(|| {
                        Failure::usage("an empty prompt, and the tokenizer has no token that begins a text")
                    })?
                    .id,
            );
        }
        if ids.len() >= model.config.context {
            return Err(Failure::usage(format!(
                "prompt {prompt} has {} tokens; with a completion at most {} fit the model",
                ids.len(),
                model.config.context
            )));
        }
    }
    let eos = if args.ignore_eos { Vec::new() } else { eos_of(&model, &tokenizer) };
    let count = args.count.max(1);
    let repeated: Vec<Vec<u32>> = prompts.iter().flat_map(|ids| std::iter::repeat_n(ids.clone(), count)).collect();
    let text_of = |ids: &[u32]| tokenizer.decode(ids, true).unwrap_or_default();
    let printed = Mutex::new(0);
    let streaming = args.stream && repeated.len() == 1 && args.out.is_none();
    if streaming {
        print_text(&text_of(&repeated[0]));
    }
    let goes_on = |_: usize, ids: &[u32]| {
        if streaming && let Ok(mut printed) = printed.lock() {
            let text = text_of(ids);
            let text = until(&text, &args.draw.stop);
            // Half a character is shown as such until its other half has come.
            if !text.ends_with('\u{fffd}') && text.len() > *printed {
                print_text(&text[*printed..]);
                *printed = text.len();
            }
        }
        args.draw.stop.is_empty() || {
            let text = text_of(ids);
            until(&text, &args.draw.stop).len() == text.len()
        }
    };
    let completions = generate(&model, &repeated, &config, &eos, 0, &goes_on);
    if streaming {
        print_line("");
    }
    let seconds = started.elapsed().as_secs_f64();
    let tokens: usize = completions.iter().map(|completion| completion.ids.len()).sum();
    let mut out = args.out.as_ref().map(|path| (path, String::new()));
    for (i, completion) in completions.iter().enumerate() {
        let text = tokenizer.decode(&completion.ids, true)?;
        let text = until(&text, &args.draw.stop);
        match &mut out {
            Some((_, lines)) => {
                let row = json!({"prompt": shown[i / count], "completion": text, "finish": completion.finish});
                *lines += &format!("{row}\n");
            }
            None if streaming => {}
            None => print_line(&format!("{}{text}", tokenizer.decode(&repeated[i], true)?)),
        }
    }
    if let Some((path, lines)) = out {
        write(path, &lines)?;
    }
    let ended = completions.iter().filter(|completion| completion.finish == Finish::Eos).count();
    remark(&format!("{} completions, {tokens} tokens, {seconds:.1} s", completions.len()));
    args.shared.json.print(&json!({
        "completions": completions.len(), "tokens": tokens, "ended": ended, "seconds": seconds,
        "cpu_seconds": ProcessTime::now().as_duration().as_secs_f64(), "seed": config.seed,
        "out": args.out.as_deref().map(place),
    }));
    Ok(())
}

pub(super) fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let (model, tokenizer) = writer(&args.model)?;
    let TemplateArgs { chat_template, template_date } = &args.template;
    let choice = chat_template.as_deref().or(tokenizer.chat_template(None).is_none().then_some("hh"));
    let template = ChatTemplate::choose(&tokenizer, choice, template_time(template_date.as_deref())?)?;
    let config = args.draw.config()?;
    let eos = eos_of(&model, &tokenizer);
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::new("system", text.as_str())).collect();
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        remark("write, and press Enter; an empty line or Ctrl-D ends the conversation");
    }
    for turn in 0.. {
        if terminal {
            print_text("you: ");
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        messages.push(Message::new("user", line.trim()));
        let text = template.render(&messages, true)?;
        let mut ids = tokenizer.encode(&text, false)?;
        let room = model.config.context.saturating_sub(config.max_new_tokens).max(model.config.context / 2);
        if ids.len() > room {
            note(&format!(
                "the beginning of the conversation no longer fits the model's {} tokens",
                model.config.context
            ));
            ids.drain(..ids.len() - room);
        }
        let reply = generate(&model, &[ids], &config, &eos, turn, &|_, ids| {
            let text = tokenizer.decode(ids, true).unwrap_or_default();
            until(&text, &args.draw.stop).len() == text.len()
        });
        let reply = tokenizer.decode(&reply[0].ids, true)?;
        let reply = until(&reply, &args.draw.stop).trim();
        print_line(&format!("model: {reply}"));
        messages.push(Message::new("assistant", reply));
    }
    Ok(())
}

impl DrawArgs {
    fn config(&self) -> Result<SampleConfig, Failure> {
        let Self { max_new_tokens, temperature, top_k, top_p, min_p, seed: SeedArgs { seed }, quantize, .. } = *self;
        let config = SampleConfig { max_new_tokens, temperature, top_k, top_p, min_p, seed, quantize };
        config.validate().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(config)
    }
}

/// A text up to the first of the stop strings.
fn until<'a>(text: &'a str, stops: &[String]) -> &'a str {
    stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()))
        .min()
        .map_or(text, |end| &text[..end])
}
