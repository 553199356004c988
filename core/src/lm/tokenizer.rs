//! Tokenizers: reading and writing Hugging Face's files, and training byte-level BPE from texts.
//!
//! The ids are those of transformers' fast tokenizers (5.23), with and without special tokens.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template;
use tokenizers::{
    AddedToken, DecodeStream, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

use crate::disk::files::hex;
use crate::disk::{DiskError, text};

/// Turns text into token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    /// Chat templates by name. The one called `default` is used unless another is asked for.
    chat_templates: BTreeMap<String, String>,
    /// `tokenizer_config.json` without the chat templates. Fields that are not used here survive loading and saving.
    config: Map<String, Value>,
}

/// A token with a role of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// The tokens that begin, end and pad a sequence, where the tokenizer has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<SpecialToken>,
    /// Ends a sequence.
    pub eos: Option<SpecialToken>,
    /// Fills up a batch.
    pub pad: Option<SpecialToken>,
    /// Stands for parts of texts that have no token.
    pub unk: Option<SpecialToken>,
    /// Tokens of other roles, by their names in `tokenizer_config.json`: chat templates may ask for them.
    pub others: Vec<(String, String)>,
}

/// How a tokenizer is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Tokens in all: special tokens, the 256 bytes and the merges. Texts with too few words give fewer tokens.
    pub vocab_size: usize,
    /// How often a pair must occur to be merged.
    pub min_frequency: u64,
    /// The token that is EOS, BOS and pad at once, as in GPT-2. It has the id 0.
    pub eos: String,
    /// Further special tokens, such as those of a chat template; they have the ids from 1.
    pub special_tokens: Vec<String>,
    /// Whether every text begins with that token, too, so that a model can write a text from its first word on.
    pub begin: bool,
}

/// Turns tokens into text as they come. The text so far never ends within a UTF-8 character.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    inner: DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
    skip_special: bool,
    ids: Vec<u32>,
    /// Bytes of the text that were handed out.
    emitted: usize,
}

/// A tokenizer that cannot be used, or a text that it cannot encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file's content is not what its name promises.
    #[error("{}: {reason}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A folder has no tokenizer.
    #[error("{}: has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt", path.display())]
    Missing {
        /// Folder.
        path: PathBuf,
    },
    /// A configuration that cannot be trained with.
    #[error("{field} = {found}: {expected}")]
    Value {
        /// Field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The tokenizer has no token for something and no unknown token either.
    #[error("the tokenizer cannot {action}: {reason}")]
    Process {
        /// What was being done.
        action: &'static str,
        /// Reason, by the tokenizers crate.
        reason: String,
    },
    /// The model's vocabulary is too small.
    #[error(
        "token {token:?} has id {id}, but the model's vocabulary has {vocab_size} tokens (ids below {vocab_size}): \
         this tokenizer, with {len} ids, belongs to another model"
    )]
    TooLarge {
        /// The token with the highest id.
        token: String,
        /// Its id.
        id: u32,
        /// How many ids the tokenizer has.
        len: usize,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
}

/// The name that Hugging Face gives to the template used unless another is asked for.
const DEFAULT_TEMPLATE: &str = "default";

/// The roles, in the order in which transformers adds their tokens to a vocabulary that lacks them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The field of special tokens without a role: its name since transformers 5, and its name before.
const EXTRA: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// The field of tokens by their ids.
const ADDED: &str = "added_tokens_decoder";

/// The field of special tokens that only this model has, by the names of their roles.
const OWN_ROLES: &str = "model_specific_special_tokens";

/// The field that says whether the texts of special tokens are treated like other texts.
const SPLIT_SPECIAL: &str = "split_special_tokens";

/// Fields of `tokenizer_config.json` that do not change ids. A field that is neither read here nor in this list is
/// refused. Where there is a `tokenizer.json`, it alone decides how transformers 5.24 splits and joins texts.
const INDIFFERENT: [&str; 75] = [
    // Read here.
    "tokenizer_class", "chat_template", "add_bos_token", "add_eos_token",
    // Cutting and padding. transformers does it on demand only; this program has options of its own for it.
    "model_max_length", "max_len", "max_length", "stride", "truncation", "truncation_side", "truncation_strategy",
    "padding", "padding_side", "pad_to_multiple_of", "pad_token_type_id", "pad_token_id",
    // Settings of the slow tokenizer that the file was made from; tokenizer.json has what follows from them.
    "add_prefix_space", "add_dummy_prefix_space", "legacy", "legacy_behaviour", "sp_model_kwargs", "do_lower_case",
    "do_basic_tokenize", "strip_accents", "tokenize_chinese_chars", "never_split", "keep_accents", "remove_space",
    "trim_offsets", "use_fast", "do_lowercase_and_remove_accent", "lang", "language", "task", "extra_ids",
    "vocab_size", "tokenizer_type", "use_default_system_prompt", "unk_id",
    // How ids become text where the decoder of tokenizer.json does not decide it. Byte-level decoders do not need it.
    "clean_up_tokenization_spaces", "spaces_between_special_tokens", "errors", "decode_with_prefix_space",
    // Names, places and versions.
    "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file", "added_tokens_file",
    "processor_class", "image_processor_type", "backend", "is_local", "local_files_only", "init_inputs",
    "transformers_version", "_commit_hash", "model_type", "verbose", "device_map", "trust_remote_code", "revision",
    "is_fast", "slow_tokenizer_class", "gguf_file", "unsloth_version", "tie_word_embeddings",
    // What models and programs are given beside ids.
    "model_input_names", "return_token_type_ids", "response_schema", "response_template", "tool_parser_type",
    "bos_token_id", "eos_token_id", "unk_token_id",
];

/// Most bytes of a tokenizer's file. The largest that are published have about 35 million.
const MOST_BYTES: u64 = 512 << 20;

/// Qwen2's split into words. transformers 5.24 has it in its code.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The field that says whether a sequence begins with BOS.
const ADD_BOS: &str = "add_bos_token";

/// The field that says whether a sequence ends with EOS.
const ADD_EOS: &str = "add_eos_token";

/// Tokens that byte-level BPE has before any merge: one for each byte.
const BYTES: usize = 256;

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 4096,
            min_frequency: 2,
            eos: "<|endoftext|>".into(),
            special_tokens: Vec::new(),
            begin: false,
        }
    }
}

impl Tokenizer {
    /// Reads a Hugging Face folder: `tokenizer.json`, or `vocab.json` and `merges.txt` of GPT-2 or Qwen2; and, if they
    /// exist, `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `chat_template.jinja` and
    /// `additional_chat_templates/`.
    ///
    /// # Errors
    /// Naming the file that is missing or damaged, and the field that is not supported.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer_config.json");
        let mut config = read_object(&path)?.unwrap_or_default();
        let json = folder.join("tokenizer.json");
        check_fields(&config).map_err(|reason| file(&path, reason))?;
        let mut inner = match read(&json)? {
            Some(text) => {
                // As in transformers, `tokenizer.json` decides which tokens are put around a sequence.
                for flag in [ADD_BOS, ADD_EOS] {
                    config.shift_remove(flag);
                }
                // On a torn file the crate panics with a reason about its own code. So the JSON is checked first.
                serde_json::from_str::<IgnoredAny>(&text).map_err(|e| file(&json, format!("damaged: {e}")))?;
                let inner = caught(|| tokenizers::Tokenizer::from_bytes(&text));
                let inner = inner.map_err(|reason| file(&json, format!("damaged: {reason}")))?;
                inner.map_err(|e| file(&json, format!("not a tokenizer ({e})")))?
            }
            None => read_slow(folder, &mut config)?,
        };
        let added = added_tokens(folder, &mut config)?;
        let add = || inner.add_tokens(added);
        let count = caught(add).map_err(|reason| file(&path, format!("damaged: {reason}")))?;
        count.map_err(|e| file(&path, e.to_string()))?;
        let mut chat_templates = take_chat_templates(&mut config, &path)?;
        read_chat_templates(folder, &mut chat_templates)?;
        match caught(|| Self::new(inner, config, chat_templates)) {
            Ok(made) => made.map_err(|reason| file(&path, reason)),
            Err(reason) => Err(file(&json, format!("damaged: {reason}"))),
        }
    }

    /// Reads the tokenizer of a model. An adapter's comes from its own folder, or else from the folder of its base. In
    /// either case a chat template in the adapter's folder comes before that of the base.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load_for(folder: &Path, base: &Path) -> Result<Self, TokenizerError> {
        let own = TOKENIZER_FILES.iter().any(|name| folder.join(name).exists());
        if own || folder == base {
            return Self::load(folder);
        }
        let mut tokenizer = Self::load(base)?;
        let path = folder.join("tokenizer_config.json");
        let mut config = read_object(&path)?.unwrap_or_default();
        tokenizer.chat_templates.extend(take_chat_templates(&mut config, &path)?);
        read_chat_templates(folder, &mut tokenizer.chat_templates)?;
        Ok(tokenizer)
    }

    /// Trains byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with GPT-2's split into words. The same texts
    /// give the same bytes: of equally frequent pairs, ids decide, and ids follow the order of merges.
    ///
    /// # Errors
    /// A vocabulary that is too small for the 256 bytes and the special tokens; empty or doubled special tokens.
    pub fn train(texts: impl Iterator<Item = String> + Send, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let mut special: Vec<AddedToken> = Vec::new();
        for text in std::iter::once(&config.eos).chain(&config.special_tokens) {
            let token = AddedToken::from(text.as_str(), true);
            if text.is_empty() || special.contains(&token) {
                let expected = "special tokens have a text, and each its own".to_owned();
                return Err(TokenizerError::Value { field: "special_tokens", found: format!("{text:?}"), expected });
            }
            special.push(token);
        }
        let least = BYTES + special.len();
        if config.vocab_size < least || u32::try_from(config.vocab_size).is_err() {
            let expected = format!("at least {least} ({BYTES} bytes and {} special tokens), below 2^32", special.len());
            return Err(TokenizerError::Value { field: "vocab_size", found: config.vocab_size.to_string(), expected });
        }
        let mut trainer = TrainerWrapper::BpeTrainer(
            BpeTrainer::builder()
                .vocab_size(config.vocab_size)
                .min_frequency(config.min_frequency)
                .special_tokens(special)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .show_progress(false)
                .build(),
        );
        let mut inner = byte_level(BPE::default(), false);
        inner.train(&mut trainer, texts).map_err(|e| process("train", &e))?;
        if config.begin {
            let id = inner.token_to_id(&config.eos).expect("the special token was given to the trainer");
            let begin = SpecialToken { id, text: config.eos.clone() };
            set_template(&mut inner, Some(&begin), None)
                .map_err(|reason| TokenizerError::Process { action: "begin texts with a token", reason })?;
        }
        let mut saved = Map::new();
        for role in ["bos_token", "eos_token", "pad_token"] {
            saved.insert(role.into(), config.eos.as_str().into());
        }
        saved.insert("clean_up_tokenization_spaces".into(), false.into());
        saved.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        Self::new(inner, saved, BTreeMap::new()).map_err(|reason| TokenizerError::Process { action: "train", reason })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and, with chat templates, `chat_template.jinja` and
    /// `additional_chat_templates/` into an existing folder, as transformers reads them.
    ///
    /// # Errors
    /// When a file cannot be written. A file that was there stays as it was.
    pub fn save(&self, folder: &Path) -> Result<(), TokenizerError> {
        let json = self.inner.to_string(true).map_err(|e| process("be saved", &e))?;
        text::write(&folder.join("tokenizer.json"), &json)?;
        let config = serde_json::to_string_pretty(&self.config).expect("a JSON object always serialises");
        text::write(&folder.join("tokenizer_config.json"), &(config + "\n"))?;
        for (name, template) in &self.chat_templates {
            let path = if name == DEFAULT_TEMPLATE {
                folder.join("chat_template.jinja")
            } else {
                let others = folder.join("additional_chat_templates");
                std::fs::create_dir_all(&others).map_err(DiskError::io(&others, "create"))?;
                others.join(format!("{name}.jinja"))
            };
            text::write(&path, template)?;
        }
        Ok(())
    }

    /// Token ids of a text. With `special`, the tokens that the tokenizer puts around a sequence (usually BOS, if any)
    /// are added. The text of a special token within the text becomes that token, as in transformers.
    ///
    /// # Errors
    /// A text that cannot be spelled with the tokenizer's tokens. Byte-level tokenizers can spell every text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = processed("encode a text", || self.inner.encode_fast(text, special))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD, and ids
    /// that have no token are left out.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        processed("decode tokens", || self.inner.decode(ids, skip_special))
    }

    /// Decodes tokens as they come, without special tokens if `skip_special`.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream {
            tokenizer: self,
            inner: self.inner.decode_stream(skip_special),
            skip_special,
            ids: Vec::new(),
            emitted: 0,
        }
    }

    /// The special tokens.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The chat template of this name; the default template for `None`.
    #[must_use]
    pub fn chat_template(&self, name: Option<&str>) -> Option<&str> {
        self.chat_templates.get(name.unwrap_or(DEFAULT_TEMPLATE)).map(String::as_str)
    }

    /// Names of its chat templates.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.chat_templates.keys().map(String::as_str)
    }

    /// Makes `template` the default chat template.
    pub fn set_chat_template(&mut self, template: String) {
        self.chat_templates.insert(DEFAULT_TEMPLATE.into(), template);
    }

    /// The token with this id, as the vocabulary spells it (a space may be `Ġ` or `▁`).
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token, as the vocabulary spells it, stands for no text.
    pub(crate) fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// The bytes that a token, as the vocabulary spells it, stands for by itself. They may be a part of a character: in
    /// byte-level tokenizers, and for tokens such as `<0xE2>` in others. `None` for tokens that are whole characters.
    pub(crate) fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        let has = |kind: fn(&DecoderWrapper) -> bool| match self.inner.get_decoder() {
            Some(DecoderWrapper::Sequence(several)) => several.get_decoders().iter().any(kind),
            Some(one) => kind(one),
            None => false,
        };
        if has(|one| matches!(one, DecoderWrapper::ByteLevel(_))) {
            // As in its decoder, a token with a character that stands for no byte is text.
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return Some(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
        }
        if has(|one| matches!(one, DecoderWrapper::ByteFallback(_))) {
            let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
            return Some(vec![u8::from_str_radix(digits, 16).ok()?]);
        }
        None
    }

    /// The highest id plus one: the least vocabulary size of a model that this tokenizer fits.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.highest().map_or(0, |(id, _)| id as usize + 1)
    }

    /// Checks that a model with `vocab_size` embeddings has one for every token. A larger vocabulary is fine: many
    /// models pad theirs to a round number.
    ///
    /// # Errors
    /// Naming the token with the highest id, and the sizes.
    pub fn check_fits(&self, vocab_size: usize) -> Result<(), TokenizerError> {
        match self.highest() {
            Some((id, token)) if id as usize >= vocab_size => {
                Err(TokenizerError::TooLarge { token, id, len: id as usize + 1, vocab_size })
            }
            _ => Ok(()),
        }
    }

    /// Digest of everything that decides ids and rendered chats, 16 hex digits. Caches and checkpoints go by it.
    ///
    /// # Panics
    /// Never: a tokenizer that was read or trained serialises.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let json = self.inner.to_string(false).expect("a tokenizer that was read or trained serialises");
        hash.update(json);
        let SpecialTokens { bos, eos, pad, unk, others } = &self.special;
        for (name, token) in others {
            hash.update([1]);
            hash.update(name);
            hash.update([1]);
            hash.update(token);
        }
        if self.config.get(SPLIT_SPECIAL) == Some(&Value::Bool(true)) {
            hash.update([2]);
        }
        for token in [bos, eos, pad, unk] {
            hash.update([0]);
            hash.update(token.as_ref().map_or(u32::MAX, |token| token.id).to_le_bytes());
        }
        for (name, template) in &self.chat_templates {
            hash.update([0]);
            hash.update(name);
            hash.update([0]);
            hash.update(template);
        }
        hex(&hash.finalize()[..8])
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        mut config: Map<String, Value>,
        chat_templates: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        // Some files have the cutting and padding that their author used. transformers applies them only on demand.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        // Dropped merges (Provilkov et al. 2020) would give other ids every time.
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            inner.with_model(bpe);
        }
        if config.get(SPLIT_SPECIAL) == Some(&Value::Bool(true)) {
            inner.set_encode_special_tokens(true);
        }
        let mut others = Vec::new();
        let mut named: Vec<Value> = Vec::new();
        for role in ROLES {
            // An error names the role.
            if token_text(&config, role)?.is_some() {
                named.extend(config.get(role).cloned());
            }
        }
        for role in ["sep_token", "cls_token", "mask_token"] {
            others.extend(token_text(&config, role)?.map(|text| (role.to_owned(), text)));
        }
        let own_role = |role: &str| role.ends_with("_token") && !ROLES.contains(&role) && !role.starts_with("add_");
        let own = config.iter().filter(|(role, value)| own_role(role) && (value.is_string() || value.is_object()));
        let by_name = EXTRA.iter().chain([&OWN_ROLES]).filter_map(|field| config.get(*field)?.as_object()).flatten();
        for (role, value) in own.chain(by_name) {
            let object = Map::from_iter([(role.clone(), value.clone())]);
            others.extend(token_text(&object, role)?.map(|text| (role.clone(), text)));
            named.push(value.clone());
        }
        let extra = EXTRA.iter().filter_map(|field| config.get(*field));
        for list in extra.filter(|list| !list.is_null() && !list.is_object()) {
            match list {
                Value::Array(list) if list.is_empty() => {}
                // The first list counts.
                Value::Array(list) => {
                    named.extend(list.iter().cloned());
                    break;
                }
                other => return Err(format!("{} is {other}; expected a list, or an object, of tokens", EXTRA[0])),
            }
        }
        for value in named.iter().filter(|value| !value.is_null()) {
            let token = added_token("a token", value, true)?;
            let known = inner.get_added_tokens_decoder().values().any(|known| known.content == token.content);
            if !known {
                inner.add_special_tokens([token]).map_err(|e| e.to_string())?;
            }
        }
        let special = |role| {
            let text = token_text(&config, role)?;
            Ok::<_, String>(
                text.and_then(|text| Some(SpecialToken { id: inner.token_to_id(&text)?, text: text.clone() })),
            )
        };
        let special = SpecialTokens {
            bos: special("bos_token")?,
            eos: special("eos_token")?,
            pad: special("pad_token")?,
            unk: special("unk_token")?,
            others,
        };
        set_post_processor(&mut inner, &config, &special)?;
        // From now on the saved `tokenizer.json` decides it.
        for flag in [ADD_BOS, ADD_EOS] {
            config.shift_remove(flag);
        }
        Ok(Self { inner, special, chat_templates, config })
    }

    fn highest(&self) -> Option<(u32, String)> {
        self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).max()
    }
}

impl Stream<'_> {
    /// The text that one more token adds; empty while a character is incomplete.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = processed("decode tokens", || self.inner.step(id))?.unwrap_or_default();
        self.emitted += text.len();
        Ok(text)
    }

    /// The rest of the text at the end: an incomplete character becomes U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(text.get(self.emitted..).unwrap_or_default().to_owned())
    }
}

/// Adds BOS before and EOS after a sequence if the flags of a tokenizer without `tokenizer.json` say so.
fn set_post_processor(
    inner: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
    special: &SpecialTokens,
) -> Result<(), String> {
    let flag = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(format!("{key} is {other}; expected true or false")),
    };
    let (bos, eos) = (flag(ADD_BOS)?, flag(ADD_EOS)?);
    if bos.is_none() && eos.is_none() {
        return Ok(());
    }
    let bos = special.bos.as_ref().filter(|_| bos == Some(true));
    let eos = special.eos.as_ref().filter(|_| eos == Some(true));
    set_template(inner, bos, eos)
}

/// Adds these tokens around a sequence.
fn set_template(
    inner: &mut tokenizers::Tokenizer,
    bos: Option<&SpecialToken>,
    eos: Option<&SpecialToken>,
) -> Result<(), String> {
    let mut tokens = Vec::new();
    let mut single = vec!["$A"];
    // Tokens are given by name, because a template cannot hold a text with a space or a colon.
    if let Some(SpecialToken { id, text }) = bos {
        single.insert(0, "bos");
        tokens.push(template::SpecialToken::new("bos".into(), vec![*id], vec![text.clone()]));
    }
    if let Some(SpecialToken { id, text }) = eos {
        single.push("eos");
        tokens.push(template::SpecialToken::new("eos".into(), vec![*id], vec![text.clone()]));
    }
    let tokens = tokens.into_iter().collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let mut template = template::TemplateProcessing::builder();
    template.try_single(single)?.special_tokens(tokens);
    inner.with_post_processor(Some(template.build().map_err(|e| e.to_string())?));
    Ok(())
}

/// The text of a special token: `"</s>"`, or `{"content": "</s>", …}`.
fn token_text(config: &Map<String, Value>, role: &str) -> Result<Option<String>, String> {
    match config.get(role) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => Ok(Some(added_token(role, value, true)?.content)),
    }
}

fn take_chat_templates(
    config: &mut Map<String, Value>,
    path: &Path,
) -> Result<BTreeMap<String, String>, TokenizerError> {
    let wrong = |found: &Value| {
        file(path, format!("chat_template is {found}; expected a text, or a list of {{\"name\", \"template\"}}"))
    };
    // `remove` would move the last key into the gap.
    match config.shift_remove("chat_template") {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::String(template)) => Ok([(DEFAULT_TEMPLATE.to_owned(), template)].into()),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|item| match (item.get("name"), item.get("template")) {
                (Some(Value::String(name)), Some(Value::String(template))) => Ok((name.clone(), template.clone())),
                _ => Err(wrong(&item)),
            })
            .collect(),
        Some(other) => Err(wrong(&other)),
    }
}

/// Templates in files of their own come before those in `tokenizer_config.json`.
fn read_chat_templates(folder: &Path, templates: &mut BTreeMap<String, String>) -> Result<(), TokenizerError> {
    if let Some(template) = read(&folder.join("chat_template.jinja"))? {
        templates.insert(DEFAULT_TEMPLATE.into(), template);
    }
    let others = folder.join("additional_chat_templates");
    if !others.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(&others).map_err(DiskError::io(&others, "read"))? {
        let path = entry.map_err(DiskError::io(&others, "read"))?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        if let (Some(name), true) = (name, path.extension().is_some_and(|e| e == "jinja"))
            && let Some(template) = read(&path)?
        {
            templates.insert(name.to_owned(), template);
        }
    }
    Ok(())
}

/// Files that hold a tokenizer, of any family.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json", "tiktoken.model",
];

/// A tokenizer in the files of a slow one: GPT-2's or Qwen2's.
fn read_slow(folder: &Path, config: &mut Map<String, Value>) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let path = folder.join("tokenizer_config.json");
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let (true, true, Some(vocab_name), Some(merges_name)) =
        (vocab.is_file(), merges.is_file(), vocab.to_str(), merges.to_str())
    else {
        let other = TOKENIZER_FILES[3..].iter().find(|name| folder.join(name).exists());
        return Err(match other {
            None => TokenizerError::Missing { path: folder.to_owned() },
            Some(name) => file(
                &folder.join(name),
                "a tokenizer of this kind is not supported; expected tokenizer.json, which transformers writes: \
                 AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
                    .into(),
            ),
        });
    };
    let class = config.get("tokenizer_class").and_then(Value::as_str).map(|class| class.trim_end_matches("Fast"));
    let model = match class {
        None => read_object(&folder.join("config.json"))?
            .and_then(|model| Some(model.get("model_type")?.as_str()?.to_owned())),
        Some(_) => None,
    };
    let is_qwen2 = match (class, model.as_deref()) {
        (Some("GPT2Tokenizer"), _) | (None, None | Some("gpt2" | "phi")) => false,
        (Some("Qwen2Tokenizer"), _) | (None, Some("qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe")) => true,
        (Some(class), _) => {
            let reason = format!(
                "tokenizer_class = {class:?}: its vocab.json and merges.txt are not supported, only those of \
                 GPT2Tokenizer and Qwen2Tokenizer; expected tokenizer.json, which transformers writes"
            );
            return Err(file(&path, reason));
        }
        (None, Some(model)) => {
            let reason = format!(
                "tokenizer_class is missing, and vocab.json and merges.txt of model_type {model:?} may be of several \
                 families; expected GPT2Tokenizer or Qwen2Tokenizer"
            );
            return Err(file(&path, reason));
        }
    };
    for path in [&vocab, &merges] {
        check_size(path)?;
    }
    let bpe = caught(|| BPE::from_file(vocab_name, merges_name).build())
        .map_err(|reason| file(folder, format!("vocab.json or merges.txt is damaged: {reason}")))?
        .map_err(|e| file(folder, format!("vocab.json and merges.txt are no BPE vocabulary ({e})")))?;
    let prefix_space = config.get("add_prefix_space") == Some(&Value::Bool(true));
    let mut inner = byte_level(bpe, prefix_space);
    let roles: &[&str] = if is_qwen2 {
        let split = Split::new(SplitPattern::Regex(QWEN2_SPLIT.to_owned()), SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| process("split as Qwen2's does", &e))?;
        let bytes = ByteLevel::default().add_prefix_space(prefix_space).use_regex(false);
        inner.with_normalizer(Some(NFC)).map_err(|e| process("normalise as Qwen2's does", &e))?;
        inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
        // Qwen2 has no BOS token.
        &["eos_token", "unk_token", "pad_token"]
    } else {
        &["bos_token", "eos_token", "unk_token"]
    };
    if is_qwen2 || inner.token_to_id("<|endoftext|>").is_some() {
        for role in roles {
            config.entry(*role).or_insert("<|endoftext|>".into());
        }
    }
    Ok(inner)
}

/// The byte that a character of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`). A byte with a visible
/// character is that character; the other 68 bytes are the characters from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let is_seen = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => Some(byte).filter(|&byte| is_seen(byte)),
        Err(_) => (0..=u8::MAX).filter(|&byte| !is_seen(byte)).nth(usize::try_from(code - 0x100).ok()?),
    }
}

/// Tokens outside of `tokenizer.json`, in the order in which transformers adds them. Older folders have special tokens
/// in files of their own; their roles are put into `config`.
fn added_tokens(folder: &Path, config: &mut Map<String, Value>) -> Result<Vec<AddedToken>, TokenizerError> {
    let config_path = folder.join("tokenizer_config.json");
    if let Some(extra) = config.get(EXTRA[0])
        && (extra.is_null() || *extra == Value::Array(Vec::new()))
    {
        config.shift_remove(EXTRA[0]);
    }
    let mut by_id: BTreeMap<u64, AddedToken> = BTreeMap::new();
    match config.get(ADDED) {
        Some(Value::Object(tokens)) => {
            for (id, token) in tokens {
                let wrong = |reason: String| file(&config_path, format!("{ADDED}, {id:?}: {reason}"));
                let number = id.parse().map_err(|_| wrong("not an id".into()))?;
                by_id.insert(number, added_token("a token", token, false).map_err(wrong)?);
            }
        }
        None | Some(Value::Null) => {
            let path = folder.join("special_tokens_map.json");
            for (role, value) in read_object(&path)?.unwrap_or_default() {
                // Lists of both files are joined.
                match (config.get_mut(&role), value) {
                    (Some(Value::Array(known)), Value::Array(list)) if EXTRA[0] == role => {
                        known.extend(list.into_iter().filter(|token| !known.contains(token)).collect::<Vec<_>>());
                    }
                    (_, value) => _ = config.insert(role, value),
                }
            }
            let path = folder.join("added_tokens.json");
            if let Some(tokens) = read_object(&path)? {
                let text_of = |value: &Value| added_token("a token", value, true).ok().map(|token| token.content);
                let named = ROLES.iter().filter_map(|role| config.get(*role)).filter_map(text_of);
                let listed = EXTRA.iter().filter_map(|field| config.get(*field)?.as_array()).flatten();
                let special: BTreeSet<String> = named.chain(listed.filter_map(text_of)).collect();
                for (text, id) in tokens {
                    let id = id.as_u64().ok_or_else(|| file(&path, format!("{text:?} has the id {id}")))?;
                    let is_special = special.contains(&text);
                    by_id.insert(id, AddedToken::from(text, is_special));
                }
            }
        }
        Some(other) => return Err(file(&config_path, format!("{ADDED} is {other}; expected tokens by their ids"))),
    }
    // A token with a role is special, whatever its own flag says.
    let named: Vec<String> = ROLES.iter().filter_map(|role| token_text(config, role).ok().flatten()).collect();
    let special = |mut token: AddedToken| {
        token.special |= named.contains(&token.content);
        token
    };
    Ok(by_id.into_values().map(special).collect())
}

/// Reads a token, called `what` in errors: a text, or an object with its rules.
fn added_token(what: &str, value: &Value, special: bool) -> Result<AddedToken, String> {
    let object = match value {
        Value::String(text) => return Ok(AddedToken::from(text.clone(), special)),
        Value::Object(object) => object,
        other => return Err(format!("{what} is {other}; expected a text, or an object with a text \"content\"")),
    };
    let Some(Value::String(text)) = object.get("content") else {
        return Err(format!("{what} is an object without a text \"content\""));
    };
    let flag = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(format!("token {text:?}: {name} is {other}; expected true or false")),
    };
    let special = special || flag("special")?.unwrap_or(false);
    let mut token = AddedToken::from(text.clone(), special)
        .single_word(flag("single_word")?.unwrap_or(false))
        .lstrip(flag("lstrip")?.unwrap_or(false))
        .rstrip(flag("rstrip")?.unwrap_or(false));
    if let Some(normalized) = flag("normalized")? {
        token = token.normalized(normalized);
    }
    match object.keys().find(|key| {
        !["content", "special", "single_word", "lstrip", "rstrip", "normalized", "__type", "id"].contains(&key.as_str())
    }) {
        Some(key) => Err(format!("token {text:?}: the field '{key}' is not known")),
        None => Ok(token),
    }
}

/// Refuses fields of `tokenizer_config.json` that could change ids and are not read.
fn check_fields(config: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in config {
        let off = matches!(value, Value::Null | Value::Bool(false));
        let fine = match name.as_str() {
            // The folder would bring its own code.
            "auto_map" => value.as_object().is_some_and(|map| !map.contains_key("AutoTokenizer")),
            // These would change the split into words.
            "from_slow" | "fix_mistral_regex" => off,
            SPLIT_SPECIAL | "add_bos_token" | "add_eos_token" => value.is_null() || value.is_boolean(),
            ADDED | OWN_ROLES => true,
            name => EXTRA.contains(&name) || name.ends_with("_token") || INDIFFERENT.contains(&name) || off,
        };
        if !fine {
            let short: String = value.to_string().chars().take(60).collect();
            return Err(format!(
                "the field '{name}' ({short}) is not known: it may change what texts become; take it out if it does not"
            ));
        }
    }
    Ok(())
}

/// Runs code of the tokenizers crate. Its panics on damaged files become errors, and are not printed.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    thread_local! {
        static CAUGHT: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                before(info);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    // Nothing that a panic left half-done is used again: it is dropped with the error.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    CAUGHT.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("the tokenizers crate gave up").lines().next().unwrap_or_default().to_owned()
    })
}

/// Runs code of the tokenizers crate that processes a text or tokens.
fn processed<T>(action: &'static str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    let damaged = |reason| TokenizerError::Process { action, reason: format!("its file is damaged: {reason}") };
    caught(work).map_err(damaged)?.map_err(|error| process(action, &error))
}

fn byte_level(bpe: BPE, prefix_space: bool) -> tokenizers::Tokenizer {
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(prefix_space)));
    inner.with_decoder(Some(ByteLevel::default()));
    inner
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let object = serde_json::from_str(&text).map_err(|e| file(path, format!("not a JSON object ({e})")))?;
    Ok(Some(object))
}

/// A file's text; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, TokenizerError> {
    Ok(if check_size(path)? { text::read(path)? } else { None })
}

/// Whether there is such a file. It must be a regular file, and not too large.
fn check_size(path: &Path) -> Result<bool, TokenizerError> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(file(path, "not a regular file".into())),
        Ok(found) if found.len() > MOST_BYTES => {
            Err(file(path, format!("has {} bytes; at most {MOST_BYTES} are read", found.len())))
        }
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(DiskError::io(path, "read")(error).into()),
    }
}

fn file(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::File { path: path.to_owned(), reason }
}

fn process(action: &'static str, error: &tokenizers::Error) -> TokenizerError {
    TokenizerError::Process { action, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::{Tokenizer, TokenizerConfig};
    use crate::fixtures::{json, own, shared};

    fn json_lines(path: &Path) -> Vec<Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ids(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// Few words with many equal counts, and characters of several bytes.
    fn texts() -> impl Iterator<Item = String> + Send {
        (0..200).map(|i: u32| {
            let word = |k: u32| "abcdefgh".chars().cycle().skip(k as usize % 8).take(1 + k as usize % 5);
            let line: String = (0..12).flat_map(|k| word(i * 7 + k * k).chain([' '])).collect();
            line + "naïve ☃ 🙂🙂"
        })
    }

    fn trained() -> Tokenizer {
        let config = TokenizerConfig { vocab_size: 400, ..TokenizerConfig::default() };
        Tokenizer::train(texts(), &config).unwrap()
    }

    fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
        let mut stream = tokenizer.stream(skip_special);
        let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text += &stream.finish().unwrap();
        text
    }

    #[test]
    fn ids_and_texts_are_those_of_transformers() {
        for model in ["llama", "gpt2", "qwen2", "mistral"] {
            let folder = own(&format!("hf/{model}"));
            let tokenizer = Tokenizer::load(&folder).unwrap();
            let cases = std::fs::read_to_string(folder.join("tokenizer_cases.json")).unwrap();
            let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
            assert!(cases.len() > 20);
            for case in &cases {
                let text = case["text"].as_str().unwrap();
                let with_special = tokenizer.encode(text, true).unwrap();
                assert_eq!(with_special, ids(&case["ids"]), "{model} {text:?}");
                assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_no_special"]), "{model} {text:?}");
                assert_eq!(tokenizer.decode(&with_special, true).unwrap(), case["decoded"].as_str().unwrap());
                for skip_special in [true, false] {
                    let text = tokenizer.decode(&with_special, skip_special).unwrap();
                    assert_eq!(streamed(&tokenizer, &with_special, skip_special), text, "{model}");
                }
            }
            for pair in json_lines(&folder.join("pairs.jsonl")) {
                let (prompt, completion) = (pair["prompt"].as_str().unwrap(), pair["completion"].as_str().unwrap());
                assert_eq!(tokenizer.encode(prompt, true).unwrap(), ids(&pair["prompt_ids"]));
                let full = tokenizer.encode(&format!("{prompt}{completion}"), true).unwrap();
                assert_eq!(full, ids(&pair["full_ids"]));
            }
            let bos: Vec<u32> = tokenizer.special().bos.iter().map(|bos| bos.id).collect();
            let adds_bos = !bos.is_empty() && tokenizer.encode("", true).unwrap().starts_with(&bos);
            assert_eq!(adds_bos, ["llama", "mistral"].contains(&model), "{bos:?}");
        }
    }

    /// SentencePiece's leading space is stripped once, at the beginning, also while streaming.
    #[test]
    fn a_story_is_decoded_as_documented() {
        let folder = own("hf/stories260K");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let (ids, text) = (ids(&golden["greedy_ids_200"]), golden["documented_greedy_text"].as_str().unwrap());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids, true), text);
    }

    /// Ids by transformers 5.23.0 (`GPT2Tokenizer`).
    #[test]
    #[ignore = "needs ../shared/data/gpt2-tokenizer"]
    fn gpt2_is_read_from_its_two_files() {
        let folder = shared("gpt2-tokenizer");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        for (text, ids) in [
            ("Hello world", &[15496, 995][..]),
            (" don't  stop\n\n  now 12345", &[836, 470, 220, 2245, 628, 220, 783, 17031, 2231]),
            ("naïve 日本 🙂<|endoftext|>x", &[2616, 38776, 10545, 245, 98, 17312, 105, 32485, 50256, 87]),
        ] {
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids);
            assert_eq!(tokenizer.decode(ids, false).unwrap(), text);
            assert_eq!(streamed(&tokenizer, ids, false), text);
        }
        assert_eq!(tokenizer.special().eos.as_ref().unwrap().id, 50256);
        assert_eq!(tokenizer.vocab_size(), 50257);
        let error = tokenizer.check_fits(50256).unwrap_err().to_string();
        assert!(["<|endoftext|>", "50256", "50257"].iter().all(|part| error.contains(part)), "{error}");
        tokenizer.check_fits(50257).unwrap();
    }

    /// What stands beside GPT-2's two files; ids by transformers 5.23.0 (`GPT2Tokenizer`).
    #[test]
    #[ignore = "needs ../shared/data/gpt2-tokenizer"]
    fn flags_and_the_map_of_special_tokens_count_as_in_transformers() {
        let source = shared("gpt2-tokenizer");
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.json", "merges.txt"] {
            std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        for (config, map, hello, eos, pad) in [
            ("{\"add_bos_token\": true}", "{}", &[50256, 15496, 0][..], 50256, None),
            ("{\"add_bos_token\": true, \"add_eos_token\": true}", "{}", &[50256, 15496, 0, 50256], 50256, None),
            ("{\"add_prefix_space\": true}", "{}", &[18435, 0], 50256, None),
            ("{\"eos_token\": \"x\"}", "{\"eos_token\": \"!\", \"pad_token\": \"<pad>\"}", &[15496, 0], 0, Some(50257)),
            ("{\"eos_token\": \"!\", \"added_tokens_decoder\": {}}", "{\"eos_token\": \"?\"}", &[15496, 0], 0, None),
        ] {
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            std::fs::write(folder.path().join("special_tokens_map.json"), map).unwrap();
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            let special = tokenizer.special();
            assert_eq!(tokenizer.encode("Hello!", true).unwrap(), hello, "{config}");
            assert_eq!(special.eos.as_ref().unwrap().id, eos, "{config}");
            assert_eq!(special.pad.as_ref().map(|pad| pad.id), pad, "{config}");
            let saved = tempfile::tempdir().unwrap();
            tokenizer.save(saved.path()).unwrap();
            assert_eq!(Tokenizer::load(saved.path()).unwrap().encode("Hello!", true).unwrap(), hello, "{config}");
        }
    }

    /// What `tokenizer_config.json` may say; ids by transformers 5.23.0 (`AutoTokenizer`).
    #[test]
    fn special_tokens_come_from_the_configuration() {
        let source = own("hf/llama");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(source.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        let load = |config: &str| {
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            Tokenizer::load(folder.path())
        };
        let config = r#"{"bos_token": {"content": "<s>", "lstrip": false}, "pad_token": "[PAD]", "add_bos_token": false,
            "chat_template": [{"name": "default", "template": "a"}, {"name": "other", "template": "b"}]}"#;
        let tokenizer = load(config).unwrap();
        assert_eq!(tokenizer.encode("a[PAD]b", true).unwrap(), [0, 67, 640, 68], "a new token gets the next id");
        assert_eq!(tokenizer.special().bos.as_ref().unwrap().id, 0);
        assert_eq!(tokenizer.special().eos, None);
        assert_eq!([None, Some("other")].map(|name| tokenizer.chat_template(name).unwrap()), ["a", "b"]);
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        assert_eq!(Tokenizer::load(saved.path()).unwrap().fingerprint(), tokenizer.fingerprint());
        std::fs::write(folder.path().join("chat_template.jinja"), "c").unwrap();
        assert_eq!(load(config).unwrap().chat_template(None), Some("c"));
        for (config, expected) in [
            ("{\"eos_token\": 3}", "eos_token is 3; expected a text"),
            ("{\"eos_token\": {}}", "without a text \"content\""),
            ("{\"chat_template\": [\"x\"]}", "chat_template is \"x\"; expected"),
            ("[]", "not a JSON object"),
        ] {
            let error = load(config).unwrap_err().to_string();
            assert!(error.contains("tokenizer_config.json") && error.contains(expected), "{error}");
        }
        std::fs::write(folder.path().join("tokenizer.json"), "{\"version\": 1}").unwrap();
        assert!(load("{}").unwrap_err().to_string().contains("tokenizer.json: not a tokenizer"));
        std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        assert!(load("{}").unwrap_err().to_string().contains("expected tokenizer.json, or vocab.json and merges.txt"));
    }

    /// What transformers makes of tokens outside `tokenizer.json`, and of slow files: tests/data/tokenizer/make.py.
    #[test]
    fn tokens_outside_the_file_and_slow_files_are_those_of_transformers() {
        let data = own("tokenizer");
        let all = json(data.join("cases.json"));
        let text = all["text"].as_str().unwrap();
        let cases = all["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let folder = tempfile::tempdir().unwrap();
            for name in case["copied"].as_array().unwrap() {
                let name = name.as_str().unwrap();
                std::fs::copy(data.join(name), folder.path().join(name)).unwrap();
            }
            for (name, content) in case["files"].as_object().unwrap() {
                std::fs::write(folder.path().join(name), content.to_string()).unwrap();
            }
            let name = &case["name"];
            let check = |tokenizer: &Tokenizer| {
                assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{name}");
                assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&case["ids_without"]), "{name}");
                let shown = tokenizer.decode(&ids(&case["ids"]), true).unwrap();
                assert_eq!(shown, case["shown"].as_str().unwrap(), "{name}");
                assert_eq!(tokenizer.inner.get_vocab_size(true), case["length"].as_u64().unwrap() as usize, "{name}");
                let special = tokenizer.special();
                let own = [("bos", &special.bos), ("eos", &special.eos), ("pad", &special.pad), ("unk", &special.unk)];
                let own = own.iter().filter_map(|(role, token)| Some((format!("{role}_token"), token.as_ref()?.id)));
                let id = |text: &str| tokenizer.inner.token_to_id(text).unwrap();
                let others = special.others.iter().map(|(role, text)| (role.clone(), id(text)));
                let roles: std::collections::BTreeMap<String, u32> = own.chain(others).collect();
                let expected: std::collections::BTreeMap<String, u32> =
                    serde_json::from_value(case["roles"].clone()).unwrap();
                assert_eq!(roles, expected, "{name}");
            };
            let tokenizer = Tokenizer::load(folder.path()).unwrap();
            check(&tokenizer);
            let saved = tempfile::tempdir().unwrap();
            tokenizer.save(saved.path()).unwrap();
            let again = Tokenizer::load(saved.path()).unwrap();
            check(&again);
            assert_eq!(again.fingerprint(), tokenizer.fingerprint(), "{name}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let data = own("tokenizer");
        let refused = |copied: &[&str], files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for name in copied {
                std::fs::copy(data.join(name), folder.path().join(name)).unwrap();
            }
            for (name, content) in files {
                std::fs::write(folder.path().join(name), content).unwrap();
            }
            Tokenizer::load(folder.path()).unwrap_err().to_string()
        };
        let config = |content| [("tokenizer_config.json", content)];
        for (content, expected) in [
            ("{\"from_slow\": true}", "the field 'from_slow' (true) is not known"),
            ("{\"fix_mistral_regex\": true}", "'fix_mistral_regex'"),
            ("{\"auto_map\": {\"AutoTokenizer\": [\"a.B\", null]}}", "'auto_map'"),
            ("{\"reverse_words\": 1}", "'reverse_words' (1)"),
            ("{\"split_special_tokens\": 1}", "'split_special_tokens'"),
            ("{\"added_tokens_decoder\": []}", "added_tokens_decoder is []"),
            ("{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", "\"x\": not an id"),
            ("{\"added_tokens_decoder\": {\"9\": {\"content\": \"a\", \"lstrip\": 1}}}", "lstrip is 1"),
            ("{\"added_tokens_decoder\": {\"9\": {\"content\": \"a\", \"upper\": true}}}", "the field 'upper'"),
            ("{\"extra_special_tokens\": \"<a>\"}", "extra_special_tokens is \"<a>\""),
            ("{\"extra_special_tokens\": [3]}", "a token is 3"),
        ] {
            let error = refused(&["tokenizer.json"], &config(content));
            assert!(error.contains("tokenizer_config.json: ") && error.contains(expected), "{error}");
        }
        let slow = ["vocab.json", "merges.txt"];
        for class in ["CodeGenTokenizer", "RobertaTokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"] {
            let named = format!("{{\"tokenizer_class\": \"{class}\"}}");
            let error = refused(&slow, &[("tokenizer_config.json", named.as_str())]);
            assert!(error.contains("GPT2Tokenizer and Qwen2Tokenizer") && error.contains(&class[..6]), "{error}");
        }
        let error = refused(&slow, &[("config.json", "{\"model_type\": \"llama\"}")]);
        assert!(error.contains("tokenizer_class is missing") && error.contains("\"llama\""), "{error}");
        for name in ["tokenizer.model", "tekken.json"] {
            let error = refused(&[], &[(name, "x")]);
            assert!(error.contains(name) && error.contains("not supported; expected tokenizer.json"), "{error}");
        }
    }

    /// The crate panics on some of these.
    #[test]
    fn damaged_files_are_called_damaged() {
        let data = own("tokenizer");
        let whole = std::fs::read(data.join("tokenizer.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let (mut damaged, mut read) = (0, 0);
        let mut try_one = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match Tokenizer::load(folder.path()) {
                Ok(tokenizer) => {
                    read += 1;
                    // What was read may still be damaged.
                    if let Err(error) = tokenizer.encode("In 2024 <s>cafe\u{301}</s>", true) {
                        assert!(error.to_string().contains("encode a text"), "{error}");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("tokenizer.json: ") && text.lines().count() == 1, "{text}");
                    damaged += usize::from(text.contains("damaged"));
                }
            }
        };
        for cut in (0..whole.len()).step_by(53) {
            try_one(&whole[..cut]);
        }
        let mut at: u64 = 1;
        for _ in 0..600 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = whole.clone();
            let place = (at >> 33) as usize % bytes.len();
            match at >> 20 & 3 {
                0 => bytes[place] ^= 1 << (at >> 29 & 7),
                1 => _ = bytes.remove(place),
                2 => drop(bytes.drain(place..(place + 40).min(whole.len()))),
                _ => bytes[place] = b'9',
            }
            try_one(&bytes);
        }
        try_one(&std::fs::read(own("robust/tokenizer-cut.json")).unwrap());
        assert!(damaged > 0 && read > 0, "{damaged} damaged, {read} read");
    }

    #[test]
    fn an_adapter_may_have_its_own() {
        let data = own("tokenizer");
        let (base, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (base, adapter) = (base.path(), adapter.path());
        std::fs::copy(data.join("tokenizer.json"), base.join("tokenizer.json")).unwrap();
        std::fs::write(base.join("chat_template.jinja"), "base").unwrap();
        std::fs::write(base.join("tokenizer_config.json"), "{}").unwrap();
        let load = || Tokenizer::load_for(adapter, base).unwrap();
        assert_eq!((load().inner.token_to_id("<tool>"), load().chat_template(None)), (None, Some("base")));
        std::fs::write(adapter.join("chat_template.jinja"), "own").unwrap();
        assert_eq!((load().inner.token_to_id("<tool>"), load().chat_template(None)), (None, Some("own")));
        std::fs::copy(data.join("tokenizer.json"), adapter.join("tokenizer.json")).unwrap();
        std::fs::write(adapter.join("tokenizer_config.json"), "{\"extra_special_tokens\": [\"<tool>\"]}").unwrap();
        assert_eq!((load().inner.token_to_id("<tool>"), load().chat_template(None)), (Some(267), Some("own")));
        std::fs::remove_file(adapter.join("chat_template.jinja")).unwrap();
        assert_eq!(load().chat_template(None), None, "a tokenizer of its own has its own templates");
    }

    /// The crate counts in parallel and in hash maps that are seeded anew every time.
    #[test]
    fn training_gives_the_same_bytes_with_any_number_of_threads() {
        let fingerprint = trained().fingerprint();
        for threads in [1, 2, 3, 4, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| trained().fingerprint()), fingerprint, "{threads} threads");
        }
    }

    #[test]
    fn a_trained_tokenizer_survives_its_folder_and_spells_every_text() {
        let config = TokenizerConfig { special_tokens: vec!["<|im_end|>".into()], ..TokenizerConfig::default() };
        let mut tokenizer = Tokenizer::train(texts(), &config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let without_template = tokenizer.fingerprint();
        tokenizer.set_chat_template("{{ messages }}".into());
        assert_ne!(tokenizer.fingerprint(), without_template);
        let mut other = tokenizer.clone();
        other.set_chat_template("{{ messages[0] }}".into());
        assert_ne!(tokenizer.fingerprint(), other.fingerprint());
        tokenizer.save(folder.path()).unwrap();
        let loaded = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(loaded.special(), tokenizer.special());
        let special = tokenizer.special();
        assert_eq!((special.eos.as_ref().unwrap().id, special.bos == special.eos), (0, true));
        assert_eq!(special.pad, special.eos);
        for text in ["", " abcab naïve\r\n\t☃🙂", "日本語 \u{0}\u{7f}", "x<|im_end|>y<|endoftext|>"] {
            let ids = loaded.encode(text, true).unwrap();
            assert_eq!(ids, tokenizer.encode(text, false).unwrap(), "nothing is added around a text");
            assert_eq!(loaded.decode(&ids, false).unwrap(), text);
        }
        assert_eq!(loaded.encode("<|im_end|>", true).unwrap(), [1]);
        assert!(tokenizer.encode("abcabc naïve", true).unwrap().len() < 8, "something was merged");
        let path = folder.path().join("tokenizer.json");
        let json = std::fs::read_to_string(&path).unwrap();
        assert!(json.contains("\"dropout\": null"));
        std::fs::write(&path, json.replace("\"dropout\": null", "\"dropout\": 0.5")).unwrap();
        let fingerprint = Tokenizer::load(folder.path()).unwrap().fingerprint();
        assert_eq!(fingerprint, tokenizer.fingerprint(), "no merge is left to chance");
    }

    #[test]
    fn a_stream_holds_back_half_a_character() {
        // Too few texts for any merge: one token for each byte.
        let config = TokenizerConfig { vocab_size: 257, ..TokenizerConfig::default() };
        let tokenizer = Tokenizer::train(std::iter::empty(), &config).unwrap();
        let ids = tokenizer.encode("a🙂é", true).unwrap();
        assert_eq!(ids.len(), 7);
        let mut stream = tokenizer.stream(true);
        let parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(parts, ["a", "", "", "", "🙂", "", "é"]);
        assert_eq!(stream.finish().unwrap(), "");
        let mut stream = tokenizer.stream(true);
        let text: String = ids[..3].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!((text.as_str(), stream.finish().unwrap().as_str()), ("a", "\u{fffd}"));
    }

    #[test]
    fn impossible_trainings_are_refused() {
        let config = TokenizerConfig { vocab_size: 256, ..TokenizerConfig::default() };
        let error = Tokenizer::train(texts(), &config).unwrap_err().to_string();
        assert!(error.contains("vocab_size = 256: at least 257"), "{error}");
        for special_tokens in [vec![String::new()], vec!["<|endoftext|>".to_owned()]] {
            let config = TokenizerConfig { special_tokens, ..TokenizerConfig::default() };
            assert!(Tokenizer::train(texts(), &config).unwrap_err().to_string().contains("special_tokens = \""));
        }
    }
}
