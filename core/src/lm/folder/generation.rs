//! `generation_config.json`: the tokens that end texts, and how transformers would sample.

use std::path::Path;

use serde_json::json;

use crate::lm::config::ModelConfig;
use crate::lm::fields::{Fields, FolderError, Harmless, read_json, short, token_ids};

pub(super) const GENERATION: &str = "generation_config.json";

/// Fields that do not decide which tokens are drawn, each group with the reason.
const OF_NO_EFFECT: Harmless = &[
    ("read as the model's own", &["bos_token_id"]),
    (
        "how tokens are computed, and what a call returns beside them",
        &[
            "_from_model_config", "cache_config", "cache_implementation", "compile_config",
            "continuous_batching_config", "disable_compile", "is_assistant", "low_memory", "max_cache_len", "max_time",
            "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits", "output_scores",
            "pad_token_id", "prefill_chunk_size", "return_dict_in_generate", "transformers_version", "use_cache",
        ],
    ),
];

/// Fields by which transformers draws other tokens, in groups by the value that changes nothing, if there is one. They
/// are not applied here.
const OF_SAMPLING: &[(Option<f64>, &[&str])] = &[
    (
        Some(0.0),
        &[
            "diversity_penalty", "early_stopping", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff",
            "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "penalty_alpha", "top_k",
        ],
    ),
    (
        Some(1.0),
        &[
            "encoder_repetition_penalty", "guidance_scale", "length_penalty", "num_beam_groups", "num_beams",
            "repetition_penalty", "temperature", "top_p", "typical_p",
        ],
    ),
    (
        None,
        &[
            "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
            "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens", "constraints", "decoder_start_token_id",
            "do_sample", "dola_layers", "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id",
            "forced_decoder_ids", "forced_eos_token_id", "max_length", "max_matching_ngram_size", "max_new_tokens",
            "num_assistant_tokens", "num_assistant_tokens_schedule", "prompt_lookup_num_tokens",
            "remove_invalid_values", "renormalize_logits", "sequence_bias", "speculation_type", "stop_strings",
            "suppress_tokens", "target_lookbehind", "token_healing", "top_h", "use_mtp", "watermarking_config",
        ],
    ),
];

/// Reads the tokens that end a text. They may be given only here, or there may be more of them than in `config.json`.
/// Returns a remark on the fields that are not applied.
pub(super) fn read_generation(folder: &Path, config: &mut ModelConfig) -> Result<Vec<String>, FolderError> {
    let file = folder.join(GENERATION);
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let object = read_json(&file)?;
    let mut fields = Fields::new(&file, &object, OF_NO_EFFECT);
    if let Some(value) = fields.get("eos_token_id") {
        let problem = format!("eos_token_id = {value}: must be a token's number, or several");
        config.eos = token_ids(value).ok_or_else(|| fields.error(&problem))?;
    }
    let mut ignored = Vec::new();
    for name in object.keys() {
        let Some((neutral, _)) = OF_SAMPLING.iter().find(|(_, names)| names.contains(&name.as_str())) else { continue };
        let Some(value) = fields.get(name) else { continue };
        let nothing = *value == json!(false) || *value == json!([]) || *value == json!({});
        if !nothing && (value.as_f64().is_none() || value.as_f64() != *neutral) {
            ignored.push(format!("{name} = {}", short(value)));
        }
    }
    fields.no_others("", "the model writes the same")?;
    config.generation = object;
    let are = if ignored.len() == 1 { "is" } else { "are" };
    Ok(match ignored.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "{}: {} {are} not applied: tokens are drawn as this program's own options say",
            file.display(),
            ignored.join(", "),
        )],
    })
}
