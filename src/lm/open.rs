//! What is to be known of a model that a folder holds, beside the model itself: its tokenizer, the tokens that end its
//! texts, whether its chat template asks for the date, and the hash of its weights.

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
use crate::nn::to_host;

/// The tokenizer of the model that was read from `folder`, checked against its vocabulary. An adapter's may lie with it.
///
/// # Errors
/// When there is none, or it belongs to another model.
pub fn tokenizer_of(folder: &Path, loaded: &Loaded) -> Result<Tokenizer, LmError> {
    let tokenizer = Tokenizer::load_for(folder, &loaded.base)?;
    tokenizer.check_fits(loaded.decoder.config.vocabulary)?;
    Ok(tokenizer)
}

/// Tokens that end a model's texts: its configuration's, and the tokenizer's.
#[must_use]
pub fn eos_of(model: &Decoder, tokenizer: &Tokenizer) -> Vec<u32> {
    let own = model.config.eos.iter().copied();
    own.chain(tokenizer.special().eos.as_ref().map(|token| token.id)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// SHA-256 of what is trained.
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

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Today's date where a model's chat template asks for one; `choice` is another template, by name or file. What is wrong
/// with the model or the template is told where they are read.
#[must_use]
pub fn asked_date(model: &Path, choice: Option<&str>) -> Option<String> {
    let tokenizer = Tokenizer::load_for(model, &base_of(model)).ok()?;
    let template = ChatTemplate::wanted(&tokenizer, choice, None).ok()??;
    template.asks_for_the_date().then(chat::date_of_today)
}

/// The folder of a model's base: of an adapter, the one that it names; itself for what is no adapter.
fn base_of(model: &Path) -> PathBuf {
    let text = fs::read_to_string(model.join("adapter_config.json")).unwrap_or_default();
    let object: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(base) = object.get("base_model_name_or_path").and_then(Value::as_str) else { return model.to_owned() };
    // As where the adapter is read; what is wrong with it is told there.
    let places = [PathBuf::from(base), model.join(base)];
    places.into_iter().find(|path| path.join("config.json").is_file()).unwrap_or_else(|| model.to_owned())
}
