//! Model-written evaluations as a user runs them: models on sets of questions, and what is said of bad input.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use pairwise::lm::teach::TeachConfig;
use pairwise::lm::teach::folder as teaching;

use crate::common::{self, contents, json, pairwise, refused, stderr};

/// A model that has read a few reviews and answers nearly at random; each `name` is another one.
fn model(folder: &Path, name: &str, seed: &str) {
    let sizes = ["hidden=16", "layers=2", "heads=2", "context=96", "vocabulary=300", "texts=60"];
    let mut arguments = vec!["lm", "pretrain", "--out", name, "--seed", seed];
    let sets: Vec<String> = sizes.iter().map(|size| format!("pretrain.{size}")).collect();
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    arguments.extend(["--set", "train.steps=4"]);
    json(folder, &arguments);
}

fn sets(folder: &Path) {
    let persona = |i: usize| {
        let (matching, other) = if i.is_multiple_of(2) { (" Yes", " No") } else { (" No", " Yes") };
        serde_json::json!({
            "question": format!("Is the following statement something you would say?\n\"I like number {i}\""),
            "statement": format!("I like number {i}"), "label_confidence": 0.9,
            "answer_matching_behavior": matching, "answer_not_matching_behavior": other,
        })
    };
    let choice = |i: usize| {
        serde_json::json!({
            "question": format!("Would you take {i}?\n\nChoices:\n (A) No\n (B) Yes"),
            "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)",
        })
    };
    let sentence = |i: usize| {
        serde_json::json!({
            "index": i, "occupation": format!("cook {}", i / 2), "other_person": "guest", "pronoun_options": ["he", "she", "they"],
            "sentence_with_blank": format!("The cook told guest {i} that _ was late."), "BLS_percent_women_2019": 8.0 * i as f64,
        })
    };
    let lines = |row: &dyn Fn(usize) -> serde_json::Value| (0..12).map(|i| format!("{}\n", row(i))).collect::<String>();
    fs::create_dir_all(folder.join("sets/more")).unwrap();
    fs::write(folder.join("sets/persona.jsonl"), lines(&persona)).unwrap();
    fs::write(folder.join("sets/choices.jsonl"), lines(&choice)).unwrap();
    fs::write(folder.join("sets/more/sentences.jsonl"), lines(&sentence)).unwrap();
}

#[test]
fn models_are_measured_resumed_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "one", "0");
    model(folder, "two", "1");
    sets(folder);
    // Two sizes and two amounts of training, as far as the report knows.
    fs::write(
        folder.join("models.toml"),
        "[[model]]\nspec = \"one\"\nparameters = 1000\nsteps = 0\n\n[[model]]\nspec = \"two/model\"\nname = \"second\"\n\
         parameters = 100000\nsteps = 0\n",
    )
    .unwrap();
    let run = ["evals", "run", "--models", "models.toml", "--data", "sets", "--free", "4", "--out", "out"];
    let found = json(folder, &run);
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    let persona = &results.iter().find(|r| r["set"] == "persona" && r["model"]["name"] == "second").unwrap()["found"];
    assert_eq!((&persona["kind"], &persona["questions"]), (&"behaviour".into(), &12.into()));
    assert!((persona["ceiling"].as_f64().unwrap() - 0.9).abs() < 1e-12);
    assert!(persona["both_ways"]["value"].as_f64().is_some());
    let choices = &results.iter().find(|r| r["set"] == "choices").unwrap()["found"];
    assert!(choices["first_choice"].as_f64().unwrap() > 0.0);
    assert!(results.iter().any(|r| r["set"] == "sentences" && r["found"]["occupations"] == 6));
    // Trends over size of both sets of questions, and of the correlation.
    let trends = found["trends"].as_array().unwrap();
    let measured: Vec<_> = trends.iter().map(|trend| trend["measured"].as_str().unwrap()).collect();
    assert_eq!(measured, ["matching", "matching", "correlation"]);
    assert!(
        folder.join("out/sentences-size.svg").is_file() && folder.join("out/pronouns/one/sentences.jsonl").is_file()
    );
    assert!(folder.join("out/free/one/persona.json").is_file() && !folder.join("out/partial").exists());
    assert!(folder.join("out/persona-size.svg").is_file() && folder.join("out/overview-one.svg").is_file());
    let rows = fs::read_to_string(folder.join("out/results.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 6);

    // Lost answers are asked again and are the same; nothing else is.
    let before = contents(&folder.join("out"));
    fs::remove_file(folder.join("out/items/second/persona.jsonl")).unwrap();
    json(folder, &run);
    assert_eq!(contents(&folder.join("out")), before);
    // With one thread, too.
    let mut alone = run.to_vec();
    *alone.last_mut().unwrap() = "alone";
    json(folder, &[&alone[..], &["--threads", "1"]].concat());
    let items =
        |name: &str| contents(&folder.join(name).join("items")).into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    assert_eq!(items("alone"), items("out"));

    let report = ["evals", "report", "out", "--diff", "one", "second", "--top", "3", "--out", "report"];
    let diff = json(folder, &report);
    let of_persona = diff["difference"].as_array().unwrap().iter().find(|d| d["set"] == "persona").unwrap().clone();
    let changed = of_persona["questions"].as_array().unwrap().clone();
    let size = |i: usize| {
        let p = changed[i]["probabilities"].as_array().unwrap();
        (p[0].as_f64().unwrap() - p[1].as_f64().unwrap()).abs()
    };
    assert!(changed.len() == 3 && size(0) >= size(1) && size(1) >= size(2));
    assert!(fs::read_to_string(folder.join("report/report.md")).unwrap().contains("from one to second"));
    assert!(diff["difference"].as_array().unwrap().iter().any(|d| d["measured"] == "correlation"));

    // A model that comes later stands beside those that were there.
    fs::write(folder.join("later.toml"), "[[model]]\nspec = \"two\"\nname = \"third\"\n").unwrap();
    let later =
        ["evals", "run", "--models", "later.toml", "--data", "sets/persona.jsonl", "--free", "4", "--out", "out"];
    json(folder, &later);
    let rows = fs::read_to_string(folder.join("out/results.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 7);
    // One that was trained since is another model.
    fs::copy(folder.join("one/model/model.safetensors"), folder.join("two/model/model.safetensors")).unwrap();
    let message = refused(folder, &later);
    assert!(message.contains("the model third had other weights when it answered"), "{message}");
}

/// JSON is text; a folder's name need not be.
#[cfg(unix)]
#[test]
fn the_day_that_a_template_is_told_is_recorded_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "one", "0");
    sets(folder);
    let file = folder.join("one/model/tokenizer_config.json");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    tokenizer["chat_template"] =
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %} {{ m.role }}: {{ m.content }}{% endfor %}".into();
    fs::write(&file, tokenizer.to_string()).unwrap();
    let run = |out: &str, more: &[&str]| {
        let set = ["--data", "sets/persona.jsonl", "--limit", "2", "--free", "0", "--out", out];
        json(folder, &[&["evals", "run", "--model", "one", "--form", "chat"], &set[..], more].concat())
    };
    let config = |out: &str| fs::read_to_string(folder.join(out).join("config.toml")).unwrap();
    let today = pairwise::lm::chat::date_of_today();
    run("now", &[]);
    assert!(config("now").contains(&format!("template_date = \"{today}\"")), "{}", config("now"));
    // A folder of another day goes on as it began.
    run("then", &["--template-date", "2024-07-26"]);
    let before = contents(&folder.join("then"));
    run("then", &[]);
    assert_eq!(contents(&folder.join("then")), before);
    let items = |out: &str| contents(&folder.join(out).join("items"))[0].1.clone();
    assert_ne!(items("now"), items("then"), "the template is told another day");
    let ask = ["evals", "run", "--model", "one", "--data", "sets/persona.jsonl", "--limit", "2", "--free", "0"];
    let other = [&ask[..], &["--form", "chat", "--out", "then", "--template-date", "2024-07-27"]].concat();
    assert!(refused(folder, &other).contains("asked in another way"));
    for option in [["--template-date", "2024-07-26"], ["--chat-template", "hh"]] {
        let message = refused(folder, &[&ask[..], &option, &["--out", "plain"]].concat());
        assert!(message.contains(&format!("{}: only --form chat uses a template", option[0])), "{message}");
    }
    // Teaching records it, too; the texts of the embedded world need none.
    fs::write(folder.join("prompts.jsonl"), "{\"prompt\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n").unwrap();
    for (prompts, expected) in [("prompts.jsonl", Some(today)), ("reviews", None)] {
        let path = if expected.is_some() { folder.join(prompts) } else { prompts.into() };
        let config = TeachConfig::new(&folder.join("one/model"), &path);
        let session = folder.join(format!("session-{prompts}"));
        teaching::create(&session, &config).unwrap();
        assert_eq!(teaching::read_config(&session).unwrap().template_date, expected);
    }
}

#[test]
fn names_that_are_no_text_are_no_reason_to_panic() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "one", "0");
    sets(folder);
    let [data, out] = [&b"s\xe9t.jsonl"[..], &b"\xe9"[..]].map(OsStr::from_bytes);
    fs::copy(folder.join("sets/persona.jsonl"), folder.join(data)).unwrap();
    let mut command = common::command(folder, &["evals", "run", "--model", "one", "--free", "0", "--json"]);
    let output = command.arg("--data").arg(data).arg("--out").arg(out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let last = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    let found: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&found["out"], found["results"].as_array().unwrap().len()), (&"\u{fffd}".into(), 1));
    let mut command = common::command(folder, &["evals", "report", "--json"]);
    let output = command.arg(out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A question that ends with white space takes nothing from its answers: both are scored as `lm score` scores them.
#[test]
fn answers_are_scored_as_texts_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "one", "0");
    let question = "Is it good? ";
    let row = serde_json::json!({
        "question": question, "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No",
    });
    fs::write(folder.join("set.jsonl"), format!("{row}\n")).unwrap();
    json(folder, &["evals", "run", "--model", "one", "--data", "set.jsonl", "--form", "bare", "--out", "out"]);
    let item: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("out/items/one/set.jsonl")).unwrap()).unwrap();
    let rows = [" Yes", " No"].map(|answer| serde_json::json!({"prompt": question, "completion": answer}).to_string());
    fs::write(folder.join("rows.jsonl"), rows.join("\n")).unwrap();
    json(folder, &["lm", "score", "--model", "one/model", "--data", "rows.jsonl", "--out", "scores.jsonl"]);
    let scores = fs::read_to_string(folder.join("scores.jsonl")).unwrap();
    for (i, line) in scores.lines().enumerate() {
        let score: serde_json::Value = serde_json::from_str(line).unwrap();
        let (own, expected) = (item["log_probs"][i].as_f64().unwrap(), score["logprob"].as_f64().unwrap());
        assert!((own - expected).abs() < 1e-4, "{own} {expected}");
    }
    assert_eq!(scores.lines().count(), 2);
}

#[test]
fn bad_input_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    sets(folder);
    let run = |more: &[&str]| {
        refused(folder, &[&["evals", "run", "--data", "sets/persona.jsonl", "--out", "out"], more].concat())
    };
    assert!(run(&[]).contains("no model: give --model SPEC"));
    assert!(run(&["--model", "nowhere"]).contains("nowhere"));
    fs::write(folder.join("models.toml"), "[[model]]\nname = \"a\"\n").unwrap();
    assert!(run(&["--models", "models.toml"]).contains("missing field `spec`"));
    let data = |text: &str| {
        fs::write(folder.join("bad.jsonl"), text).unwrap();
        refused(folder, &["evals", "run", "--model", "nowhere", "--data", "bad.jsonl", "--out", "out2"])
    };
    assert!(data("{\"prompt\": 1}\n").contains("has the fields prompt; expected question"));
    assert!(
        data("{\"question\": \"a\", \"answer_matching_behavior\": \" Yes\"}\n").contains("bad.jsonl:1: missing field")
    );
    assert!(data("no JSON\n").contains("bad.jsonl:1: "));
    let message = refused(folder, &["evals", "report", "nowhere"]);
    assert!(message.contains("is the run finished?"), "{message}");
    // What is wrong is found before anything is asked.
    model(folder, "one", "0");
    let message = run(&["--model", "one", "nowhere"]);
    assert!(message.contains("nowhere: no config.json") && !folder.join("out").exists(), "{message}");
    // Nothing is written for what never began.
    assert!(!folder.join("out2").exists());
}

/// A key is in the environment only: whatever happens, no output and no file has it.
#[test]
fn a_server_that_is_not_there_is_named_and_the_key_is_not() {
    let folder = tempfile::tempdir().unwrap();
    sets(folder.path());
    // A port that nobody listens on: one that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = format!("http://127.0.0.1:{port}/v1#tiny");
    let arguments =
        ["evals", "run", "--model", &spec, "--data", "sets/persona.jsonl", "--retries", "1", "--out", "out"];
    let mut command = common::command(folder.path(), &arguments);
    let output = command.env("OPENAI_API_KEY", "sk-very-secret").output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(&format!("127.0.0.1:{port}")) && !message.contains("panicked"), "{message}");
    assert!(!message.contains("very-secret"));
    for (path, bytes) in contents(folder.path()) {
        assert!(!String::from_utf8_lossy(&bytes).contains("very-secret"), "{}", path.display());
    }
    let help = pairwise(folder.path(), &["evals", "run", "--help"]);
    assert!(help.status.success());
}
