//! Hugging Face folders: `config.json` with `model.safetensors`, whole or in shards, and PEFT's adapters.

mod adapter;
mod generation;
pub(super) mod peft;
pub(super) mod weights;
pub(super) mod whole;

use std::path::Path;

use burn::tensor::Device;

use self::adapter::{read_adapted, write_adapters};
use self::peft::ADAPTER_CONFIG;
pub use self::whole::{Loaded, merged, with_scores};
use self::whole::{read_whole, write_whole};
pub use super::fields::FolderError;
use super::model::Decoder;
use crate::disk::DiskError;

/// Reads a model: a folder with `config.json`, or one with `adapter_config.json`, whose base is read, too.
///
/// # Errors
/// [`FolderError`], naming the file and what is wrong with it.
pub fn read(folder: &Path, device: &Device) -> Result<Loaded, FolderError> {
    match folder.join(ADAPTER_CONFIG).is_file() {
        true => read_adapted(folder, device),
        false => read_whole(folder, device),
    }
}

/// Writes a model's configuration and weights; of a model with adapters only the adapters, which refer to the folder of
/// their base.
///
/// # Errors
/// Errors of the file system. A folder that is there keeps its other files.
pub fn write(decoder: &Decoder, base: Option<&Path>, folder: &Path) -> Result<(), FolderError> {
    std::fs::create_dir_all(folder).map_err(DiskError::io(folder, "make the folder"))?;
    match &decoder.adapters {
        Some(adapters) => write_adapters(decoder, adapters, base, folder),
        None => write_whole(decoder, folder),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use burn::tensor::Device;
    use serde_json::{Value, json};

    use super::{merged, read, with_scores, write};
    use crate::fixtures;
    use crate::lm::batch::{Batch, Targets};
    use crate::lm::config::{ModelConfig, SmallLlama};
    use crate::lm::lora::{Adapters, LoraConfig};
    use crate::lm::model::Decoder;
    use crate::nn::to_host;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    /// Log-probabilities of every token after the first, of all sequences in one batch.
    fn log_probs(decoder: &Decoder, sequences: &[Vec<u32>]) -> Vec<Vec<f64>> {
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        for ids in sequences {
            let rows: Vec<usize> = batch.push(ids).collect();
            targets.push(ids, &rows, 1);
        }
        let all = to_host(decoder.log_probs(decoder.hidden(&batch, None), &targets, 1.0).0);
        targets.examples.into_iter().map(|range| all[range].iter().map(|&l| f64::from(l)).collect()).collect()
    }

    fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max)
    }

    /// Golden log-probabilities in float64, from which transformers 5.23 differs by 1.6e-6 (EXPECTED.md there).
    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn log_probabilities_of_four_families_are_those_of_transformers() {
        let data = fixtures::shared("hf");
        let device = Device::flex();
        for family in ["llama", "gpt2", "qwen2", "mistral"] {
            let decoder = read(&data.join(family), &device).unwrap().decoder;
            let rows = lines(&data.join(family).join("pairs.jsonl"));
            let sequences: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["full_ids"])).collect();
            let found = log_probs(&decoder, &sequences);
            let worst =
                rows.iter().zip(&found).map(|(row, found)| largest_difference(found, &numbers(&row["token_logprobs"])));
            let worst = worst.fold(0.0, f64::max);
            println!("{family}: {worst:.2e}");
            assert!(worst < 2e-5, "{family}: {worst}");
        }
    }

    #[test]
    fn both_spellings_of_a_configuration_are_one() {
        let data = fixtures::own("hf");
        for family in ["llama", "gpt2", "qwen2", "mistral", "stories260K"] {
            let [new, old] = ["config.json", "config_v4style.json"].map(|name| {
                let config = ModelConfig::read(&data.join(family).join(name)).unwrap();
                ModelConfig { original: serde_json::Map::new(), ..config }
            });
            assert_eq!(new, old, "{family}");
        }
    }

    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn a_padded_batch_without_its_padding_is_the_same() {
        let data = fixtures::shared("hf");
        for family in ["llama", "gpt2", "qwen2", "mistral"] {
            let decoder = read(&data.join(family), &Device::flex()).unwrap().decoder;
            let text = std::fs::read_to_string(data.join(family).join("batch_padding.json")).unwrap();
            let padded: Value = serde_json::from_str(&text).unwrap();
            for side in ["left", "right"] {
                let side = &padded[side];
                let rows = side["input_ids"].as_array().unwrap().iter().zip(side["attention_mask"].as_array().unwrap());
                let sequences: Vec<Vec<u32>> = rows
                    .map(|(row, mask)| {
                        ids(row).into_iter().zip(ids(mask)).filter(|(_, mask)| *mask == 1).map(|(id, _)| id).collect()
                    })
                    .collect();
                let found = log_probs(&decoder, &sequences);
                for (found, expected) in found.iter().zip(side["token_logprobs_unpadded"].as_array().unwrap()) {
                    assert!(largest_difference(found, &numbers(expected)) < 2e-5, "{family}");
                }
            }
        }
    }

    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn an_adapter_adds_what_peft_adds_and_can_be_merged() {
        let data = fixtures::shared("hf");
        let decoder = read(&data.join("llama_lora"), &Device::flex()).unwrap().decoder;
        assert_eq!(decoder.adapters.as_ref().unwrap().modules.len(), 9);
        let all = lines(&data.join("llama/pairs.jsonl"));
        let expected = lines(&data.join("llama_lora/pairs_lora.jsonl"));
        let row = |id: &Value| all.iter().find(|row| row["id"] == *id).unwrap();
        let sequences: Vec<Vec<u32>> = expected.iter().map(|line| ids(&row(&line["id"])["full_ids"])).collect();
        for decoder in [merged(&decoder), decoder] {
            for (found, expected) in log_probs(&decoder, &sequences).iter().zip(&expected) {
                assert!(largest_difference(found, &numbers(&expected["token_logprobs"])) < 2e-5);
            }
        }
    }

    /// Small models and adapters of transformers and PEFT, and what these compute with them: `make.py` there.
    fn own() -> (PathBuf, Value) {
        let folder = fixtures::own("models");
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        (folder, serde_json::from_str(&text).unwrap())
    }

    fn assert_log_probs(decoder: &Decoder, all_ids: &Value, expected: &Value, what: &str) {
        let sequences: Vec<Vec<u32>> = all_ids.as_array().unwrap().iter().map(ids).collect();
        let found = log_probs(decoder, &sequences);
        for (found, expected) in found.iter().zip(expected.as_array().unwrap()) {
            let difference = largest_difference(found, &numbers(expected));
            assert!(difference < 3e-5, "{what}: {difference}");
        }
    }

    #[test]
    fn adapters_are_read_as_by_peft_and_written_as_what_was_read() {
        let (folder, expected) = own();
        let device = Device::flex();
        let all = expected["adapters"].as_object().unwrap();
        assert_eq!(all.len(), 18);
        for (name, values) in all {
            let loaded = read(&folder.join(name), &device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(loaded.remarks, Vec::<String>::new(), "{name}");
            assert_log_probs(&loaded.decoder, &expected["ids"], values, name);
            assert_log_probs(&merged(&loaded.decoder), &expected["ids"], values, name);
            let untrained = ["dora", "saved", "biases"].iter().any(|part| name.contains(part));
            assert_eq!(loaded.only_read.is_some(), untrained, "{name}");
            if untrained {
                continue;
            }
            let written = tempfile::tempdir().unwrap();
            write(&loaded.decoder, Some(&loaded.base), written.path()).unwrap();
            let again = read(written.path(), &device).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_log_probs(&again.decoder, &expected["ids"], values, name);
        }
    }

    #[test]
    fn ways_to_begin_that_leave_the_base_alone_change_nothing() {
        let (folder, expected) = own();
        let copy = tempfile::tempdir().unwrap();
        let file = folder.join("plain/adapter_config.json");
        let mut object = fixtures::json(file);
        object["base_model_name_or_path"] = folder.join("llama").to_str().unwrap().into();
        let tensors = "adapter_model.safetensors";
        std::fs::copy(folder.join("plain").join(tensors), copy.path().join(tensors)).unwrap();
        for (start, values) in expected["starts"].as_object().unwrap() {
            object["init_lora_weights"] = serde_json::from_str(start).unwrap();
            std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
            let loaded = read(copy.path(), &Device::flex()).unwrap();
            assert_log_probs(&loaded.decoder, &expected["ids"], values, start);
            assert_eq!(loaded.remarks.len(), usize::from(start.contains("lora_ga")), "{start}");
        }
        // Without tensors for a module that is said to have some, these would be drawn.
        object["target_modules"] = json!(["q_proj", "v_proj", "k_proj"]);
        for (start, problem) in [(json!(true), None), (json!(false), Some("k_proj.lora_A.weight' is missing"))] {
            object["init_lora_weights"] = start;
            std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
            let error = read(copy.path(), &Device::flex()).map(drop).map_err(|error| error.to_string());
            match problem {
                None => error.unwrap(),
                Some(problem) => assert!(error.clone().unwrap_err().contains(problem), "{error:?}"),
            }
        }
        // PEFT would leave tensors unread that the configuration does not name.
        object["target_modules"] = json!(["q_proj"]);
        std::fs::write(copy.path().join("adapter_config.json"), object.to_string()).unwrap();
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(
            error.contains("there are tensors for model.layers.0.self_attn.v_proj, which target_modules"),
            "{error}"
        );
    }

    /// A folder with the tensors of another, and its files with changes; null takes a field out.
    fn changed(from: &Path, file: &str, changes: &Value) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut object = fixtures::json(from.join(file));
        let fields = object.as_object_mut().unwrap();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        std::fs::write(copy.path().join(file), object.to_string()).unwrap();
        copy
    }

    #[test]
    fn configurations_mean_what_they_mean_to_transformers() {
        let (folder, expected) = own();
        let all = expected["configs"].as_array().unwrap();
        assert_eq!(all.len(), 14);
        for case in all {
            let base = folder.join(case["base"].as_str().unwrap());
            let copy = changed(&base, "config.json", &case["changes"]);
            let loaded = read(copy.path(), &Device::flex()).unwrap_or_else(|error| panic!("{case}: {error}"));
            let what = case["changes"].to_string();
            let ids = &expected[case["ids"].as_str().unwrap()];
            assert!(ids[0].as_array().unwrap().len() <= loaded.decoder.config.context, "{what}");
            assert_log_probs(&loaded.decoder, ids, &case["log_probs"], &what);
            // And so when it is written again.
            let written = tempfile::tempdir().unwrap();
            write(&loaded.decoder, None, written.path()).unwrap();
            let again = read(written.path(), &Device::flex()).unwrap();
            assert_log_probs(&again.decoder, ids, &case["log_probs"], &what);
            assert_eq!(again.remarks, Vec::<String>::new(), "{what}");
        }
    }

    #[test]
    fn a_folder_that_is_written_says_what_is_in_it_and_keeps_the_rest() {
        let (folder, _) = own();
        let copy =
            changed(&folder.join("llama"), "config.json", &json!({"dtype": "bfloat16", "_name_or_path": "mine"}));
        let sampling = json!({
            "bos_token_id": 0, "eos_token_id": [1, 4], "pad_token_id": 2, "do_sample": true, "temperature": 0.7,
            "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "num_beams": 1,
        });
        std::fs::write(copy.path().join("generation_config.json"), sampling.to_string()).unwrap();
        let loaded = read(copy.path(), &Device::flex()).unwrap();
        let [remark] = loaded.sampling.as_slice() else { panic!("{:?}", loaded.sampling) };
        assert!(
            remark.contains("repetition_penalty = 1.05 are not applied") && !remark.contains("num_beams"),
            "{remark}"
        );
        let written = tempfile::tempdir().unwrap();
        write(&loaded.decoder, None, written.path()).unwrap();
        let json = |name: &str| fixtures::json(written.path().join(name));
        assert_eq!(json("generation_config.json"), sampling);
        let (config, original) = (json("config.json"), loaded.decoder.config.original.clone());
        for (name, value) in original {
            let expected = if name == "dtype" { json!("float32") } else { value };
            assert_eq!(config[&name], expected, "{name}");
        }
        std::fs::write(copy.path().join("generation_config.json"), r#"{"colour": 1}"#).unwrap();
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json: colour = 1: pairwise does not know what it does"), "{error}");
    }

    #[test]
    fn a_classifier_of_several_labels_is_refused() {
        let (folder, _) = own();
        let two = json!({"architectures": ["LlamaForSequenceClassification"]});
        let copy = changed(&folder.join("llama"), "config.json", &two);
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(
            error.contains("config.json: num_labels = 2: the file does not say which label is the reward"),
            "{error}"
        );
        let one = json!({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "x"}, "num_labels": 5});
        let copy = changed(&folder.join("llama"), "config.json", &one);
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("tensor 'score.weight' is missing"), "{error}");
    }

    /// Sizes that no file has: what is said of them is said before anything of that size is made.
    #[test]
    fn sizes_are_compared_with_the_files_before_memory_is_asked_for() {
        let (folder, _) = own();
        let huge = 1 << 30;
        for (changes, expected) in [
            (json!({"vocab_size": huge}), "config.json makes it [1073741824, 16] (vocab_size, "),
            (json!({"hidden_size": huge}), "config.json makes it [40, 1073741824] (vocab_size, hidden_size)"),
            (json!({"intermediate_size": huge}), "config.json makes it [1073741824, 16] (intermediate_size, "),
            (json!({"num_hidden_layers": huge}), "though config.json says num_hidden_layers = 1073741824"),
            (json!({"num_hidden_layers": huge, "vocab_size": huge, "hidden_size": huge}), "num_hidden_layers = "),
            (json!({"head_dim": huge}), "config.json makes it [4294967296, 16] (num_attention_heads × head_dim, "),
            (json!({"num_key_value_heads": huge}), "num_attention_heads = 4 is not a multiple of"),
            (
                json!({"num_attention_heads": huge, "num_key_value_heads": huge, "head_dim": huge}),
                "num_attention_heads ×",
            ),
            (
                json!({"max_position_embeddings": huge}),
                "max_position_embeddings = 1073741824: must be at most 16777216",
            ),
        ] {
            let copy = changed(&folder.join("llama"), "config.json", &changes);
            let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
        let copy = changed(&folder.join("gpt2"), "config.json", &json!({"n_positions": huge}));
        let error = read(copy.path(), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("config.json makes it [1073741824, 16] (n_positions, "), "{error}");
        // As long as this, it is no matter for a model that turns.
        let copy = changed(&folder.join("llama"), "config.json", &json!({"max_position_embeddings": 1 << 24}));
        let model = read(copy.path(), &Device::flex()).unwrap().decoder;
        let sampling = crate::lm::sample::SampleConfig { max_new_tokens: 3, ..Default::default() };
        let written = crate::lm::sample::generate(&model, &[vec![0, 2]], &sampling, &[], 0, &|_, _| true);
        assert_eq!(written[0].ids.len(), 3);
    }

    #[cfg(unix)]
    #[test]
    fn an_index_names_regular_files_of_its_folder_only() {
        let (folder, _) = own();
        let copy = changed(&folder.join("llama"), "config.json", &json!({}));
        let index = copy.path().join("model.safetensors.index.json");
        let names: Vec<String> = {
            let bytes = std::fs::read(copy.path().join("model.safetensors")).unwrap();
            let names = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            names.names().into_iter().map(str::to_owned).collect()
        };
        let map =
            |file: &str| names.iter().map(|name| (name.clone(), file.into())).collect::<serde_json::Map<_, Value>>();
        let error = |map: Value| {
            std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
            let error = read(copy.path(), &Device::flex()).map(drop).map_err(|error| error.to_string());
            // Merging has a reader of its own.
            let config = crate::soup::MergeConfig { weights: vec![1.0], ..Default::default() };
            let out = copy.path().join("out");
            let models = [copy.path().to_owned()];
            let merged = crate::lm::merge::merge_models(&config, None, &models, &out, false, &false.into(), &|_, _| ());
            assert_eq!(merged.map(drop).map_err(|error| error.to_string()), error);
            let _ = std::fs::remove_dir_all(out);
            error
        };
        assert_eq!(error(map("model.safetensors").into()), Ok(()));
        std::os::unix::fs::symlink(folder.join("llama/model.safetensors"), copy.path().join("linked")).unwrap();
        assert_eq!(error(map("linked").into()), Ok(()), "as in Hugging Face's cache");
        for (value, expected) in [
            (json!({}), "weight_map = {}: must name each tensor's file"),
            (json!([]), "field 'weight_map' is missing"),
            (map("../model.safetensors").into(), "\"../model.safetensors\": must be the name of a file in this folder"),
            (map("/etc/passwd").into(), "\"/etc/passwd\": must be the name of a file in this folder"),
            (map("").into(), "\"\": must be the name of a file in this folder"),
            (json!({"a": 1}), "weight_map.\"a\" = 1: must be the name of a file in this folder"),
            (map("none").into(), "none: cannot read: No such file or directory"),
            (
                json!({"other": "model.safetensors"}),
                "weight_map says that 'other' is in model.safetensors, but it is not",
            ),
        ] {
            let found = error(value).unwrap_err();
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
        // A tensor that is in two files.
        let mut both = map("model.safetensors");
        both.insert(names[0].clone(), "linked".into());
        let found = error(both.into()).unwrap_err();
        assert!(found.contains(", too: which one counts?"), "{found}");
        // Neither a pipe, nor a folder, nor what never ends is opened.
        std::os::unix::fs::symlink("/dev/zero", copy.path().join("endless")).unwrap();
        std::fs::create_dir(copy.path().join("folder")).unwrap();
        let pipe = copy.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for name in ["endless", "folder", "pipe"] {
            let found = error(map(name).into()).unwrap_err();
            assert!(found.ends_with(&format!("{name}: is no regular file")), "{found}");
        }
        std::fs::remove_file(&index).unwrap();
        for name in ["config.json", "model.safetensors", "generation_config.json"] {
            let path = copy.path().join(name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            // A generation_config.json that is no regular file counts as missing.
            assert_eq!(read(copy.path(), &Device::flex()).is_ok(), name.starts_with("generation"), "{name}");
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
    }

    #[test]
    fn an_adapter_of_an_adapter_is_refused() {
        let (folder, _) = own();
        let at = |path: &Path| json!({ "base_model_name_or_path": path.to_str().unwrap() });
        let plain = folder.join("plain");
        let of_adapter = changed(&plain, "adapter_config.json", &at(&plain));
        let error = |path: &Path| read(path, &Device::flex()).unwrap_err().to_string();
        assert!(error(of_adapter.path()).contains("is an adapter, too: must be a whole model"));
        // Its own, and two in a circle.
        let own = changed(&plain, "adapter_config.json", &at(&plain));
        let circle = changed(&plain, "adapter_config.json", &at(own.path()));
        for (base, expected) in [(own.path(), "is this adapter's own folder"), (circle.path(), "is an adapter, too")] {
            let file = own.path().join("adapter_config.json");
            let mut object = fixtures::json(&file);
            object["base_model_name_or_path"] = base.to_str().unwrap().into();
            std::fs::write(&file, object.to_string()).unwrap();
            let found = error(own.path());
            assert!(
                found.contains("adapter_config.json: base_model_name_or_path") && found.contains(expected),
                "{found}"
            );
        }
    }

    fn small() -> Decoder {
        let size = SmallLlama { vocabulary: 50, hidden: 16, layers: 2, heads: 2, context: 32 };
        Decoder::new(ModelConfig::small_llama(size), 3, &Device::flex())
    }

    fn values(decoder: &Decoder) -> Vec<Vec<f32>> {
        let own = decoder.parameters.iter();
        own.chain(decoder.adapters.iter().flat_map(|adapters| &adapters.parameters))
            .map(|tensor| to_host(tensor.clone()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_again_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let (base, adapter, scorer) =
            (folder.path().join("base"), folder.path().join("lora"), folder.path().join("rm"));
        let decoder = small();
        write(&decoder, None, &base).unwrap();
        let again = read(&base, &device).unwrap();
        assert_eq!((values(&again.decoder), again.remarks), (values(&decoder), Vec::new()));

        let config =
            LoraConfig { rank: 3, targets: vec!["q_proj".into(), "down_proj".into()], ..LoraConfig::default() };
        let mut adapted = decoder.clone();
        adapted.adapters = Some(Adapters::new(config.clone(), &adapted.layout, 5, &device).unwrap());
        write(&adapted, Some(&base), &adapter).unwrap();
        let again = read(&adapter, &device).unwrap().decoder;
        assert_eq!(values(&again), values(&adapted));
        assert_eq!(again.adapters.as_ref().unwrap().modules, adapted.adapters.as_ref().unwrap().modules);

        let model = with_scores(&adapted, 1, 9);
        write(&Decoder { adapters: None, ..model.clone() }, None, &scorer).unwrap();
        assert_eq!(values(&read(&scorer, &device).unwrap().decoder), values(&with_scores(&decoder, 1, 9)));
        write(&model, Some(&base), &adapter).unwrap();
        assert_eq!(values(&read(&adapter, &device).unwrap().decoder), values(&model));
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let path = folder.path();
        let error = |path: &Path| read(path, &device).unwrap_err().to_string();
        assert!(error(&path.join("none")).contains("there is no such folder"));
        assert!(error(path).contains("this is not a model's folder"));
        write(&small(), None, path).unwrap();
        let weights = path.join("model.safetensors");
        let whole = std::fs::read(&weights).unwrap();
        for len in [0, 5, 100, whole.len() - 1] {
            std::fs::write(&weights, &whole[..len]).unwrap();
            let error = error(path);
            assert!(error.contains("model.safetensors: not a whole safetensors file"), "{len}: {error}");
        }
        let mut broken = whole.clone();
        let at = broken.len() - 4;
        broken[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&weights, &broken).unwrap();
        assert!(error(path).contains("has the value NaN at index"), "{}", error(path));
        std::fs::write(&weights, &whole).unwrap();
        let config = std::fs::read_to_string(path.join("config.json")).unwrap();
        std::fs::write(path.join("config.json"), config.replace("\"vocab_size\": 50", "\"vocab_size\": 60")).unwrap();
        assert!(error(path).contains("has the shape [50, 16], but config.json makes it [60, 16]"), "{}", error(path));
        std::fs::write(
            path.join("config.json"),
            config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
        )
        .unwrap();
        assert!(error(path).contains("tensor 'model.layers.2.input_layernorm.weight' is missing"), "{}", error(path));
        let unknown = LoraConfig { targets: vec!["c_attn".into()], ..LoraConfig::default() };
        let error = unknown.modules(&small().layout).unwrap_err().to_string();
        assert!(error.contains("no linear layer is called 'c_attn'") && error.contains("q_proj"), "{error}");
    }

    #[test]
    fn a_shared_prompt_changes_no_log_probability() {
        let decoder = small();
        let sequences: [&[u32]; 2] = [&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 9, 9]];
        let apart = log_probs(&decoder, &sequences.map(<[u32]>::to_vec));
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        for (ids, rows) in sequences.iter().zip(batch.push_sharing(&sequences)) {
            targets.push(ids, &rows, 1);
        }
        assert_eq!(batch.ids.len(), 8);
        let (found, _) = decoder.log_probs(decoder.hidden(&batch, None), &targets, 1.0);
        let expected: Vec<f64> = apart.concat();
        let found: Vec<f64> = to_host(found).into_iter().map(f64::from).collect();
        assert!(largest_difference(&found, &expected) < 1e-6);
        assert!(Arc::strong_count(&decoder.layout) == 1);
    }
}
