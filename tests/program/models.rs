//! Models and adapters of other programs, through the binary. Inputs that once ended badly, with the right values, lie in
//! `../shared/data/found`. Tests that need them are ignored without; `core/src/lm` has tests of the same kinds with inputs of its
//! own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{command, json, pairwise, refused, stderr};

fn found() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/found/lm");
    folder.canonicalize().expect("the shared data lie beside the project")
}

/// What `lm score` says of each row of a file.
fn scores(folder: &Path, model: &Path, rows: &Path, field: &str) -> Vec<f64> {
    let (model, rows) = (model.to_str().unwrap(), rows.to_str().unwrap());
    let output = pairwise(folder, &["lm", "score", "--model", model, "--data", rows]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()[field].as_f64().unwrap();
    text.lines().map(row).collect()
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-3, "{what}: {found}, expected {expected}");
    }
}

#[test]
#[ignore = "needs ../shared/data/found"]
fn adapters_and_models_score_as_by_transformers_and_peft() {
    let data = found();
    let folder = tempfile::tempdir().unwrap();
    let rows = data.join("rows/t.jsonl");
    for (name, expected) in [
        ("llama", [-456.933, -35.267, -559.602]),
        ("a_pissa", [-446.434, -33.841, -564.940]),
        ("a_olora", [-452.940, -35.155, -555.459]),
        ("llama_tied_but_head", [-456.933, -35.267, -559.602]),
        ("qwen2_win0", [-448.596, -29.577, -560.983]),
    ] {
        assert_near(&scores(folder.path(), &data.join(name), &rows, "logprob"), &expected, name);
    }
    let rows = rows.to_str().unwrap();
    for (name, expected) in [
        ("a_alora", "adapter_config.json: alora_invocation_tokens = [75,231,93] is not supported"),
        ("rm2", "config.json: num_labels = 2: the file does not say which label is the reward"),
    ] {
        let model = data.join(name);
        let error = refused(folder.path(), &["lm", "score", "--model", model.to_str().unwrap(), "--data", rows]);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// Expected: the merged adapters read by PEFT.
#[test]
#[ignore = "needs ../shared/data/found"]
fn merged_adapters_score_as_by_peft() {
    let data = found();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| data.join(name).to_str().unwrap().to_owned();
    for (one, other, expected) in
        [("a_plain", "a_pissa", [-449.57, -34.53, -553.99]), ("a_layers", "a_plain", [-456.504, -34.038, -551.158])]
    {
        let out = format!("{one}-{other}");
        let report = json(folder.path(), &["lm", "merge", &place(one), &place(other), "--out", &out]);
        assert!(report["relative_error"].as_f64().unwrap() < 1e-6);
        let found = scores(folder.path(), &folder.path().join(&out), &data.join("rows/t.jsonl"), "logprob");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-2, "{out}: {found}, expected {expected}");
        }
    }
}

#[test]
#[ignore = "needs ../shared/data/found"]
fn models_that_mean_other_functions_are_not_merged() {
    let data = found();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| data.join(name).to_str().unwrap().to_owned();
    for (one, other, field) in [
        ("mg_v4plain", "mg_v4llama3", "rope_scaling = llama3, factor 8"),
        ("mg_a", "mg_v4llama3", "rope_scaling = llama3, factor 8"),
        ("mg_win", "mg_nowin", "sliding_window = null, but in "),
    ] {
        let error = refused(folder.path(), &["lm", "merge", &place(one), &place(other), "--out", "out"]);
        assert!(error.contains(field) && error.contains("these are different models"), "{one} and {other}: {error}");
        assert!(!folder.path().join("out").exists());
    }
    // Two spellings of the same.
    let _ = json(folder.path(), &["lm", "merge", &place("mg_a"), &place("mg_v4plain"), "--out", "same"]);
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs ../shared/data/found"]
fn a_trained_folder_says_what_is_in_it() {
    let data = found();
    let folder = tempfile::tempdir().unwrap();
    let rows = data.join("rows/bf.jsonl");
    let rows = rows.to_str().unwrap();
    let model = data.join("llama_bf16g");
    let few = ["--steps", "2", "--batch-size", "2", "--lr", "1e-6", "--data", rows];
    let dpo = ["lm", "dpo", "--model", model.to_str().unwrap(), "--eval-data", rows, "--out", "dpo"];
    let _ = json(folder.path(), &[&dpo[..], &few].concat());
    let trained = folder.path().join("dpo/model");
    assert_eq!(read(&trained.join("config.json"))["dtype"], "float32");
    assert_eq!(read(&trained.join("generation_config.json")), read(&model.join("generation_config.json")));
    let model = data.join("llama");
    let reward = ["lm", "reward", "--model", model.to_str().unwrap(), "--out", "reward"];
    let _ = json(folder.path(), &[&reward[..], &few].concat());
    assert_eq!(read(&folder.path().join("reward/model/config.json"))["pad_token_id"], 2);
}

/// Runs a command that must be refused within two seconds and 300 MB, with one line. `ulimit -v` would count mapped files
/// and the threads' stacks, so that the data segment is what is limited.
fn refused_at_once(folder: &Path, arguments: &[&str]) -> String {
    let binary = env!("CARGO_BIN_EXE_pairwise");
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    let line = format!("ulimit -d 307200; exec '{binary}' {}", quoted.join(" "));
    let started = Instant::now();
    let output = std::process::Command::new("bash").current_dir(folder).args(["-c", &line]).output().unwrap();
    let seconds = started.elapsed();
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(seconds < Duration::from_secs(2), "{arguments:?}: {seconds:?}");
    assert_eq!(error.trim().lines().count(), 1, "{arguments:?}: {error}");
    error
}

#[test]
fn sizes_that_no_file_has_are_refused_at_once() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str, as_name: &str| {
        let to = folder.path().join(name);
        std::fs::create_dir(&to).unwrap();
        // The weights are a smaller model's: what these configurations say fits no file.
        for (from, file) in [
            ("hf/llama", "config.json"),
            ("models/llama", "model.safetensors"),
            ("hf/llama", "tokenizer.json"),
            ("hf/llama", "tokenizer_config.json"),
        ] {
            std::fs::copy(data.join(from).join(file), to.join(file)).unwrap();
        }
        let mut text = std::fs::read_to_string(data.join(format!("robust/{name}.json"))).unwrap();
        if name == "adapter-self" {
            text = text.replace("/dev/shm/man/ad", to.to_str().unwrap());
        }
        let _ = std::fs::remove_file(to.join(as_name));
        std::fs::write(to.join(as_name), text).unwrap();
    };
    for (name, as_name, expected) in [
        ("empty-index", "model.safetensors.index.json", "model.safetensors.index.json: weight_map = {}: must name"),
        ("adapter-self", "adapter_config.json", "adapter_config.json: base_model_name_or_path = "),
        ("cfg-vocab", "config.json", "config.json makes it [1073741824, 1073741824] (vocab_size"),
        ("cfg-layers", "config.json", "config.json says num_hidden_layers = 1073741824"),
        ("cfg-hidden", "config.json", "config.json makes it [640, 1073741824] (vocab_size, hidden_size)"),
        ("cfg-all", "config.json", "config.json makes it [640, 1073741824] (vocab_size, "),
        ("cfg-ctx", "config.json", "config.json: max_position_embeddings = 1073741824: must be at most 16777216"),
    ] {
        copy(name, as_name);
        let error = refused_at_once(folder.path(), &["lm", "sample", "--model", name, "--prompt", "a"]);
        assert!(error.contains(expected), "{name}: {error}");
    }
    for (name, expected) in [("policy-normalize", "checkpoint entry 'observations."), ("policy-alloc", "'")] {
        let file = data.join(format!("robust/{name}.safetensors"));
        let file = file.to_str().unwrap();
        for arguments in [&["evaluate", file][..], &["soup", file, file, "--weights", "0.5,0.5"]] {
            let error = refused_at_once(folder.path(), arguments);
            assert!(error.contains(&format!("{name}.safetensors")) && error.contains(expected), "{name}: {error}");
        }
    }
}

/// What an adapter's file has beside its updates is used, but there is nothing here that trains it.
#[test]
fn adapters_with_parts_that_are_only_read_are_not_trained() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("rows.jsonl"), "{\"prompt\": \"w3 w4\", \"completion\": \" w5 w6\"}\n").unwrap();
    let words: serde_json::Map<String, Value> = (0..40).map(|i| (format!("w{i}"), i.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w2"},
    });
    for name in ["llama", "plain", "pissa", "dora", "saved"] {
        std::fs::create_dir(at(name)).unwrap();
        for entry in std::fs::read_dir(data.join(name)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, at(name).join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(at("llama/tokenizer.json"), tokenizer.to_string()).unwrap();
    let sft = |name: &str, out: &str| {
        let model = ["lm", "sft", "--model", name, "--data", "rows.jsonl", "--steps", "1", "--out", out];
        command(folder.path(), &model).output().unwrap()
    };
    for (name, expected) in
        [("dora", "use_dora is read here, but not trained"), ("saved", "is read here, but trained only")]
    {
        let output = sft(name, "out");
        let error = stderr(&output);
        assert!(output.status.code() == Some(2) && error.contains(expected), "{name}: {error}");
        let scored = scores(folder.path(), &at(name), &at("rows.jsonl"), "logprob");
        assert!(scored[0].is_finite());
    }
    // One whose base is changed when it is read goes on as such.
    for name in ["plain", "pissa"] {
        let output = sft(name, name.to_uppercase().as_str());
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let written = read(&at(&name.to_uppercase()).join("model/adapter_config.json"));
        assert_eq!(written["init_lora_weights"].as_str(), (name == "pissa").then_some("pissa"));
        let _ = scores(folder.path(), &at(&name.to_uppercase()).join("model"), &at("rows.jsonl"), "logprob");
    }
}
