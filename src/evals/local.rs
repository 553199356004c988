//! A model in a folder of this machine.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use sha2::{Digest as _, Sha256};

use super::error::ModelError;
use super::model::{AnswerProbabilities, ClosedQuestion, Done, How, Model, Prompt, Sampling, Written};
use crate::device::{self, DeviceChoice};
use crate::disk::files::hex;
use crate::lm::batch::{Batch, Targets};
use crate::lm::chat::ChatTemplate;
use crate::lm::config::Output;
use crate::lm::data::Encoded;
use crate::lm::folder;
use crate::lm::model::Decoder;
use crate::lm::run::{LmError, eos_of, tokenizer_of};
use crate::lm::sample::{Completion, Finish, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::train::cut as in_parts;
use crate::nn::to_host;

/// A model in a folder of this machine.
pub struct Local {
    name: String,
    decoder: Decoder,
    tokenizer: Tokenizer,
    /// Writes prompts that are conversations.
    template: Option<ChatTemplate>,
    eos: Vec<u32>,
    remarks: Vec<String>,
    /// Questions that lost their beginning, being too long.
    cut: AtomicUsize,
}

/// Tokens that are computed together.
const PART_TOKENS: usize = 2048;
/// Characters of a prompt that a message shows.
const SHOWN: usize = 80;
/// Bytes of weights that are read at once.
const READ_BYTES: usize = 1 << 20;

impl Local {
    /// Reads a folder. `template` is a chat template, by name or file; it is told the time `now`.
    ///
    /// # Errors
    /// [`ModelError`]: no model, one that scores, a missing tokenizer.
    pub fn open(folder: &Path, template: Option<&str>, now: Option<i64>) -> Result<Self, ModelError> {
        let device = device::pick(DeviceChoice::Cpu)?;
        let loaded = folder::read(folder, &device).map_err(LmError::from)?;
        if loaded.decoder.config.output != Output::Tokens {
            let problem = format!("{}: is a model that scores, not one that writes", folder.display());
            return Err(ModelError::Config(problem));
        }
        let tokenizer = tokenizer_of(folder, &loaded)?;
        let template = ChatTemplate::wanted(&tokenizer, template, now).map_err(LmError::from)?;
        let remarks = loaded.remarks.iter().chain(&loaded.sampling).cloned().collect();
        let decoder = folder::merged(&loaded.decoder);
        Ok(Self::new(name_of(folder), decoder, tokenizer, template, remarks))
    }

    /// A model that is in memory.
    #[must_use]
    pub fn new(
        name: String,
        decoder: Decoder,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        remarks: Vec<String>,
    ) -> Self {
        let eos = eos_of(&decoder, &tokenizer);
        Self { name, decoder, tokenizer, template, eos, remarks, cut: 0.into() }
    }

    /// The text of a prompt, and whether special tokens are to be put around it.
    fn text(&self, prompt: &Prompt) -> Result<(String, bool), ModelError> {
        match prompt {
            Prompt::Text(text) => Ok((text.clone(), true)),
            Prompt::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    ModelError::Config(format!(
                        "{}: has no chat template: choose one (--chat-template hh), or another --form",
                        self.name
                    ))
                })?;
                Ok((template.render(messages, true).map_err(LmError::from)?, false))
            }
        }
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.tokenizer.encode(text, special).map_err(LmError::from)?)
    }

    /// A prompt's tokens, which leave room for `room` more: one without its beginning would be another prompt.
    fn prompt_ids(&self, prompt: &Prompt, room: usize) -> Result<Vec<u32>, ModelError> {
        let (text, special) = self.text(prompt)?;
        let mut ids = self.encode(&text, special)?;
        if ids.is_empty() {
            // A model that was trained on texts between EOS tokens begins one after it.
            ids.extend(self.eos.first());
        }
        let context = self.decoder.config.context;
        match ids.len() {
            0 => Err(ModelError::Config(format!(
                "{}: a prompt is empty, and there is no token to begin with",
                self.name
            ))),
            length if length.saturating_add(room) > context => Err(ModelError::Config(format!(
                "{}: a prompt has {length} tokens, and {room} are to be written after it, but the context has {context}: \
                 let it write fewer (evals generate --max-new-tokens), show fewer or shorter examples, or take a model \
                 with a longer context; the prompt begins: {:?}",
                self.name,
                text.chars().take(SHOWN).collect::<String>()
            ))),
            _ => Ok(ids),
        }
    }

    /// What a completion adds to its prompt's text: some tokenizers drop a space at the beginning of a text.
    fn continuation(&self, prompt: &[u32], written: &[u32]) -> Result<String, ModelError> {
        // The last token is enough to be in the middle of a text.
        let before = &prompt[prompt.len().saturating_sub(1)..];
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, true).map_err(LmError::from);
        let (before_text, all) = (decode(before)?, decode(&[before, written].concat())?);
        Ok(all.strip_prefix(&before_text).map_or_else(|| decode(written), |text| Ok(text.to_owned()))?)
    }

    /// A question with each of its answers, tokenised together: an answer begins where these differ from the question. And
    /// whether the question lost its beginning.
    fn encoded(&self, asked: &ClosedQuestion) -> Result<(Vec<Encoded>, bool), ModelError> {
        let (prompt, special) = self.text(&asked.prompt)?;
        let prompt_ids = self.encode(&prompt, special)?;
        let mut all = Vec::with_capacity(asked.answers.len());
        for answer in &asked.answers {
            // Where a template ends with white space, the answer brings none of its own; texts are taken as they are.
            let bare = matches!(asked.prompt, Prompt::Chat(_)) && prompt.ends_with(char::is_whitespace);
            let answer = if bare { answer.trim_start() } else { answer };
            let ids = self.encode(&format!("{prompt}{answer}"), special)?;
            let same = ids.iter().zip(&prompt_ids).take_while(|(a, b)| a == b).count();
            all.push(Encoded { prompt_len: same.min(ids.len().saturating_sub(1)), ids });
        }
        // All answers are scored from one place on.
        let shared = all.iter().map(|encoded| encoded.prompt_len).min().unwrap_or(0);
        let longest = all.iter().map(|encoded| encoded.ids.len()).max().unwrap_or(0);
        let over = longest.saturating_sub(self.decoder.config.context);
        if over > 0 {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        if over >= shared && over > 0 {
            return Err(ModelError::Config(format!(
                "{}: an answer has more tokens than the context of {}: {:?}",
                self.name, self.decoder.config.context, asked.answers
            )));
        }
        all.iter_mut().for_each(|encoded| {
            encoded.ids.drain(..over);
            encoded.prompt_len = shared - over;
        });
        Ok((all, over > 0))
    }
}

impl Model for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn parameters(&self) -> Option<usize> {
        Some(self.decoder.config.parameters())
    }

    fn context(&self) -> Option<usize> {
        Some(self.decoder.config.context)
    }

    fn fits(&self, prompt: &Prompt, sampling: &Sampling) -> Result<(), ModelError> {
        self.prompt_ids(prompt, sampling.max_new_tokens).map(|_| ())
    }

    fn answers(&self, asked: &[ClosedQuestion], done: &Done<'_>) -> Result<Vec<AnswerProbabilities>, ModelError> {
        let (encoded, cut): (Vec<Vec<Encoded>>, Vec<bool>) = asked
            .par_iter()
            .map(|asked| self.encoded(asked))
            .collect::<Result<Vec<_>, ModelError>>()?
            .into_iter()
            .unzip();
        let all: Vec<usize> = (0..encoded.len()).collect();
        let length = |i: usize| encoded[i].iter().map(|one| one.ids.len()).max().unwrap_or(0);
        let of_part = |part: &Vec<usize>| {
            let (mut batch, mut targets) = (Batch::default(), Targets::default());
            for &i in part {
                let ids: Vec<&[u32]> = encoded[i].iter().map(|one| one.ids.as_slice()).collect();
                let rows = batch.push_sharing(&ids);
                for (one, rows) in encoded[i].iter().zip(&rows) {
                    targets.push(&one.ids, rows, one.prompt_len);
                }
            }
            let values = to_host(self.decoder.log_probs(self.decoder.hidden(&batch, None), &targets, 1.0).0);
            done(part.len());
            let mut sums = targets.sums(&values).into_iter();
            let one = |&i: &usize| sums.by_ref().take(encoded[i].len()).collect();
            part.iter().map(one).collect::<Vec<Vec<f64>>>()
        };
        let parts = in_parts(length, &all, PART_TOKENS);
        let found: Vec<Vec<f64>> = parts.par_iter().flat_map(of_part).collect();
        let one = |(log_probs, cut)| AnswerProbabilities { log_probs, how: How::Exact, cut, conditional: false };
        Ok(found.into_iter().zip(cut).map(one).collect())
    }

    fn write(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        first: u64,
        done: &Done<'_>,
    ) -> Result<Vec<Written>, ModelError> {
        let ids: Vec<Vec<u32>> =
            prompts.iter().map(|prompt| self.prompt_ids(prompt, sampling.max_new_tokens)).collect::<Result<_, _>>()?;
        // What follows stays the same when more is written, so a stop text that was seen is there to stay.
        let goes_on = |number: usize, written: &[u32]| {
            sampling.stop.is_empty()
                || self.continuation(&ids[number], written).is_ok_and(|text| !sampling.stopped(&text).1)
        };
        let completions = generate(&self.decoder, &ids, &sampling.sample_config(), &self.eos, first, &goes_on);
        done(prompts.len());
        let one = |(prompt, completion): (&Vec<u32>, &Completion)| {
            let text = self.continuation(prompt, &completion.ids)?;
            let (text, stopped) = sampling.stopped(&text);
            Ok(Written { text, ended: stopped || completion.finish != Finish::Length })
        };
        ids.iter().zip(&completions).map(one).collect()
    }

    fn remarks(&self) -> Vec<String> {
        let cut = self.cut.load(Ordering::Relaxed);
        let note = (cut > 0).then(|| {
            let context = self.decoder.config.context;
            format!(
                "{}: {cut} questions did not fit the context of {context} tokens and lost their beginning",
                self.name
            )
        });
        self.remarks.iter().cloned().chain(note).collect()
    }
}

/// SHA-256 of a folder's weights, whole, in shards or of adapters: the names and bytes of its *.safetensors files. `None`
/// for a folder without such files, and where there is no folder, as for a server's address.
pub(crate) fn weights_digest(folder: &Path) -> std::io::Result<Option<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    files.sort();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    for path in files {
        let mut file = File::open(&path)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // With their lengths, so that no byte of one can stand for one of another.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(file.metadata()?.len().to_le_bytes());
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(Some(hex(&hash.finalize())))
}

/// A folder's name as tables have it: `model` says less than what it is in.
fn name_of(folder: &Path) -> String {
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match own(folder) {
        Some(name) if name == "model" => folder.parent().and_then(own).unwrap_or(name),
        Some(name) => name,
        None => folder.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::Device;

    use super::{Local, weights_digest};
    use crate::evals::model::{ClosedQuestion, Model as _, Prompt, Sampling};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::model::Decoder;
    use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};

    /// Reads 32 tokens, each a letter.
    fn local() -> Local {
        let tokens = TokenizerConfig { vocab_size: 258, min_frequency: 9, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::once("abc".to_owned()), &tokens).unwrap();
        let size = SmallLlama { vocabulary: tokenizer.vocab_size(), hidden: 16, layers: 1, heads: 2, context: 32 };
        let decoder = Decoder::new(ModelConfig::small_llama(size), 3, &Device::flex());
        Local::new("tiny".to_owned(), decoder, tokenizer, None, Vec::new())
    }

    #[test]
    fn questions_that_were_cut_are_told_of() {
        let local = local();
        let asked: Vec<ClosedQuestion> = [20, 28, 29, 40]
            .map(|length| ClosedQuestion {
                prompt: Prompt::Text("q".repeat(length)),
                answers: [" Yes", " No"].map(str::to_owned).to_vec(),
            })
            .to_vec();
        let found = local.answers(&asked, &|_| ()).unwrap();
        // " Yes" has four tokens.
        assert_eq!(found.iter().map(|one| one.cut).collect::<Vec<_>>(), [false, false, true, true]);
        assert!(found.iter().all(|one| !one.conditional));
        assert_eq!(found[2].log_probs, found[3].log_probs);
        assert_eq!(
            local.remarks(),
            ["tiny: 2 questions did not fit the context of 32 tokens and lost their beginning"]
        );
    }

    #[test]
    fn a_prompt_without_room_after_it_is_refused_with_its_lengths() {
        let local = local();
        let of = |length: usize, max_new_tokens: usize| {
            let prompt = Prompt::Text("q".repeat(length));
            let sampling = Sampling { max_new_tokens, ..Sampling::default() };
            let fits = local.fits(&prompt, &sampling).map_err(|error| error.to_string());
            let written = local.write(&[prompt], &sampling, 0, &|_| ()).map_err(|error| error.to_string());
            assert_eq!(fits, written.map(|_| ()));
            fits
        };
        assert_eq!(of(20, 12), Ok(()));
        let found = of(20, 13).unwrap_err();
        let expected = "tiny: a prompt has 20 tokens, and 13 are to be written after it, but the context has 32: let it write \
                        fewer (evals generate --max-new-tokens)";
        assert!(
            found.starts_with(expected) && found.ends_with("the prompt begins: \"qqqqqqqqqqqqqqqqqqqq\""),
            "{found}"
        );
        assert!(of(1, usize::MAX).is_err() && of(33, 1).is_err());
        assert_eq!(local.context(), Some(32));
    }

    #[test]
    fn a_folders_digest_is_of_all_its_weights_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let of = || weights_digest(folder.path()).unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        assert_eq!(of(), None);
        write("config.json", b"{}");
        assert_eq!(of(), None);
        write("b.safetensors", b"xy");
        let one = of();
        // Lengths before contents: printf '\15\0\0\0\0\0\0\0b.safetensors\2\0\0\0\0\0\0\0xy' | sha256sum.
        assert_eq!(one.as_deref(), Some("a164731ae54d11761af6a3407751f898b1b1cd21b05ac2fb503086aed4e5124a"));
        write("config.json", b"{ }");
        assert_eq!(of(), one);
        write("adapter_model.safetensors", b"");
        let two = of();
        write("b.safetensors", b"xz");
        assert!(two != one && of() != two);
        assert_eq!(weights_digest(std::path::Path::new("http://127.0.0.1:8080/v1#m")).unwrap(), None);
    }
}
