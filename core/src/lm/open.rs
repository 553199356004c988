//! What belongs to a model in a folder, beside its weights: its tokenizer, the tokens that end its texts, the date that
//! its chat template asks for, and the hash of its weights.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::chat::{self, ChatTemplate};
use super::error::LmError;
use super::folder::Loaded;
use super::model::Decoder;
use super::tokenizer::Tokenizer;
use crate::disk::files::hex;
use crate::nn::to_host;

/// The tokenizer of the model that was read from `folder`, checked against the model's vocabulary. An adapter's folder
/// may have a tokenizer of its own.
///
/// # Errors
/// When there is none, or it belongs to another model.
pub fn tokenizer_of(folder: &Path, loaded: &Loaded) -> Result<Tokenizer, LmError> {
    let tokenizer = Tokenizer::load_for(folder, &loaded.base)?;
    tokenizer.check_fits(loaded.decoder.config.vocabulary)?;
    Ok(tokenizer)
}

/// Tokens that end a model's texts: those of its configuration, and the tokenizer's.
#[must_use]
pub fn eos_of(model: &Decoder, tokenizer: &Tokenizer) -> Vec<u32> {
    let own = model.config.eos.iter().copied();
    own.chain(tokenizer.special().eos.as_ref().map(|token| token.id)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// SHA-256 of the parameters that are trained.
#[must_use]
pub fn weights_sha256(model: &Decoder) -> String {
    let mut model = model.clone();
    let mut hash = Sha256::new();
    for tensor in model.trained_mut() {
        for value in to_host(tensor.clone()) {
            hash.update(value.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

/// The time that a chat template receives if it asks for the time: the beginning of a configuration's `template_date`.
pub(super) fn template_time(date: Option<&str>) -> Result<Option<i64>, LmError> {
    date.map(chat::date).transpose().map_err(|problem| LmError::Config(format!("template_date = {problem}")))
}

/// Today's date if a model's chat template asks for a date. `choice` names another template, by name or file. Errors in
/// the model or the template are reported where they are read.
#[must_use]
pub fn asked_date(model: &Path, choice: Option<&str>) -> Option<String> {
    let tokenizer = Tokenizer::load_for(model, &base_of(model)).ok()?;
    let template = ChatTemplate::wanted(&tokenizer, choice, None).ok()??;
    template.asks_for_the_date().then(chat::date_of_today)
}

/// The folder of a model's base: the folder that an adapter names, or the model's own folder if it is no adapter.
fn base_of(model: &Path) -> PathBuf {
    let text = fs::read_to_string(model.join("adapter_config.json")).unwrap_or_default();
    let object: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(base) = object.get("base_model_name_or_path").and_then(Value::as_str) else { return model.to_owned() };
    // The same places as where the adapter is read, which reports errors.
    let places = [PathBuf::from(base), model.join(base)];
    places.into_iter().find(|path| path.join("config.json").is_file()).unwrap_or_else(|| model.to_owned())
}
