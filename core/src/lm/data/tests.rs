//! Reading of rows and files.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::row::shared_prompt;
use super::{
    CandidateRow, CompletionRow, Content, Document, PreferenceRow, PromptRow, ReadConfig, RowKind, order, read,
    read_all,
};

pub(super) fn rows_of<T: RowKind>(lines: &str) -> Result<Vec<T>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, lines).unwrap();
    read_all(&[path], &ReadConfig::default()).map(|(rows, _)| rows).map_err(|e| e.to_string())
}

fn text(content: &Content) -> &str {
    match content {
        Content::Text(text) => text,
        Content::Chat(_) => panic!("a chat"),
    }
}

#[test]
fn an_implicit_prompt_is_what_both_begin_with() {
    for (chosen, rejected, prompt) in [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is blue.", "The sky is black.", "The sky is"),
        ("The sky is blue.", "The skyline", "The"),
        ("a\nbc", "a\nbd", "a\n"),
        ("Yes", "No", ""),
        ("naïve ☃", "naïve ☂", "naïve"),
        ("word", "word more.", "word"),
        ("\n\nHuman: Hi\n\nAssistant: I am", "\n\nHuman: Hi\n\nAssistant: I was", "\n\nHuman: Hi\n\nAssistant:"),
        (
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "\n\nHuman: a\n\nAssistant: b\n\nHuman: e\n\nAssistant: f",
            "\n\nHuman: a\n\nAssistant:",
        ),
    ] {
        let row = serde_json::json!({"chosen": chosen.to_owned() + "!", "rejected": rejected}).to_string();
        let rows = rows_of::<PreferenceRow>(&row);
        if chosen == "word" {
            assert_eq!(shared_prompt(chosen, rejected), 4, "the space goes to the completion");
            continue;
        }
        let row = &rows.unwrap()[0];
        assert_eq!(text(&row.prompt), prompt);
        assert_eq!(format!("{}{}", prompt, text(&row.rejected)), rejected);
    }
    let turns =
        |last: &str| serde_json::json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]);
    // The prompt as text, and once more in the conversations: UltraFeedback's form.
    for prompt in ["", "\"prompt\": \"Hi\", "] {
        let line = format!("{{{prompt}\"chosen\": {}, \"rejected\": {}}}", turns("a"), turns("b"));
        let row = &rows_of::<PreferenceRow>(&line).unwrap()[0];
        assert!(matches!(&row.prompt, Content::Chat(m) if m.len() == 1 && m[0].content == "Hi"));
        assert!(matches!(&row.rejected, Content::Chat(m) if m.len() == 1 && m[0].content == "b"));
    }
}

#[test]
fn every_two_different_completions_are_a_candidate() {
    let lines = r#"{"prompt": "p", "completions": ["a", "b", "a"], "id": 7}
{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2}"#;
    let rows = rows_of::<CandidateRow>(lines).unwrap();
    let sides = |row: &CandidateRow| -> Vec<String> {
        row.candidates.iter().map(|pair| [text(&pair.chosen), text(&pair.rejected)].concat()).collect()
    };
    assert_eq!((sides(&rows[0]), sides(&rows[1])), (vec!["ab".into(), "ba".into()], vec!["ab".into()]));
    let written = |row: &CandidateRow, i: usize| Value::Object(row.only(i)).to_string();
    assert_eq!(written(&rows[0], 1), r#"{"prompt":"p","completions":["b","a"],"id":7}"#);
    assert_eq!(written(&rows[1], 0), r#"{"prompt":"p","chosen":"a","rejected":"b","margin":2}"#);
    for (line, expected) in [
        (r#"{"prompt": "p", "completions": ["a", "a"]}"#, "field 'completions' has no two that differ"),
        (r#"{"prompt": "p", "completions": ["a", 3]}"#, "field 'completions' is a number (3)"),
        (r#"{"prompt": "p", "completions": "a"}"#, "field 'completions' is a text"),
        (r#"{"completions": ["a", "b"]}"#, "field 'prompt' is missing"),
        (r#"{"prompt": "p"}"#, "field 'chosen' is missing"),
    ] {
        let error = rows_of::<CandidateRow>(line).unwrap_err();
        assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
    }
}

#[test]
#[ignore = "needs ../shared/data/hh-rlhf"]
fn hh_rlhf_is_read() {
    let folder = crate::fixtures::shared("hh-rlhf");
    let (rows, skipped) = read_all::<PreferenceRow>(&[folder], &ReadConfig::default()).unwrap();
    assert_eq!((rows.len(), skipped.count), (1156, 0));
    // In this half of the file chosen and rejected always agree up to the last turn.
    for row in &rows {
        assert!(text(&row.prompt).ends_with("\n\nAssistant:"));
        assert!([&row.chosen, &row.rejected].iter().all(|answer| !text(answer).contains("\n\nAssistant:")));
    }
}

#[test]
fn bad_rows_are_named() {
    let good = r#""prompt": "p", "chosen": "a", "rejected": "b""#;
    let user = r#"{"role": "user", "content": "p"}"#;
    let answer = r#"{"role": "assistant", "content": "a"}"#;
    for (line, expected) in [
        ("{".to_owned(), "not a JSON object (EOF"),
        ("[1]".to_owned(), "expected one object a line"),
        (r#"{"prompt": "p", "chosen": "a"}"#.into(), "field 'rejected' is missing; expected a text or a list of"),
        (r#"{"prompt": 3, "chosen": "a", "rejected": "b"}"#.into(), "field 'prompt' is a number (3); expected"),
        (r#"{"prompt": [], "chosen": "a", "rejected": "b"}"#.into(), "field 'prompt' is an empty list"),
        (
            r#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#.into(),
            "message 1 whose content is missing; expected a text",
        ),
        (r#"{"prompt": ["x"], "chosen": "a", "rejected": "b"}"#.into(), "has an item 1 that is a text (\"x\")"),
        (r#"{"prompt": "p", "chosen": "", "rejected": "b"}"#.into(), "field 'chosen' has no completion"),
        (r#"{"chosen": "x y", "rejected": "x y z"}"#.into(), "field 'chosen' has no completion"),
        (r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#.into(), "'chosen' and 'rejected' are equal"),
        (r#"{"prompt": null, "chosen": "a b", "rejected": "a b"}"#.into(), "'chosen' and 'rejected' are equal"),
        (
            format!("{{\"prompt\": [{user}], \"chosen\": \"a\", \"rejected\": [{answer}]}}"),
            "'chosen' and 'rejected' are equal",
        ),
        (
            format!("{{\"prompt\": \"q\", \"chosen\": [{user}, {answer}], \"rejected\": [{user}, {user}]}}"),
            "do not begin with the same prompt",
        ),
        (
            r#"{"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}"#.into(),
            "expected the same for both",
        ),
        (format!("{{{good}, \"margin\": \"1\"}}"), "field 'margin' is a text (\"1\"); expected a finite number"),
        (format!("{{{good}, \"target\": 1.5}}"), "field 'target' is a number (1.5); expected a probability"),
        (format!("{{{good}, \"preference\": \"first\"}}"), "field 'preference' is a text (\"first\")"),
        (format!("{{{good}, \"preference\": \"tie\", \"target\": 0.5}}"), "has more than one of 'target'"),
    ] {
        let error = rows_of::<PreferenceRow>(&format!("{{{good}}}\n\n{line}\n")).unwrap_err();
        assert!(error.contains("rows.jsonl: line 3: ") && error.contains(expected), "{error}");
    }
    for (line, expected) in [
        (r#"{"prompt": "p", "completion": "c", "label": 1}"#, "field 'label' is a number (1); expected true"),
        (r#"{"messages": [{"role": "user", "content": "x"}]}"#, "field 'messages' ends with user; expected the"),
        (r#"{"messages": [{"role": "assistant", "content": "x"}]}"#, "has only one message"),
        (r#"{"completion": "c"}"#, "field 'prompt' is missing"),
    ] {
        let error = rows_of::<CompletionRow>(line).unwrap_err();
        assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
    }
    for (extra, target) in [
        ("", None),
        (", \"label_probability\": 0.25", Some(0.25)),
        (", \"preference\": \"tie\"", Some(0.5)),
        (", \"preference\": 0.75, \"unknown\": []", Some(0.75)),
    ] {
        assert_eq!(rows_of::<PreferenceRow>(&format!("{{{good}{extra}}}")).unwrap()[0].target, target);
    }
}

#[test]
fn nothing_of_a_conversation_is_dropped() {
    let user = r#"{"role": "user", "content": "Hi"}"#;
    let good = format!("\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": \"Yes\"}}]");
    for (line, expected) in [
        (
            r#"{"system": "Be brief.", "question": "Sky?", "chosen": "a", "rejected": "b"}"#.to_owned(),
            "field 'system' is a text",
        ),
        (r#"{"question": "Sky?", "prompt": "x", "chosen": "a", "rejected": "b"}"#.into(), "field 'question' is a text"),
        (r#"{"prompt": "x", "chosen": "a", "rejected": "b", "images": ["a.png"]}"#.into(), "field 'images' is a list"),
        (
            r#"{"prompt": "x", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}"#.into(),
            "and the prompt is a text",
        ),
        (r#"{"prompt": "x", "chosen": "a", "rejected": "b", "tools": 3}"#.into(), "field 'tools' is a number (3)"),
    ] {
        let error = rows_of::<PreferenceRow>(&line).unwrap_err();
        assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
    }
    for (line, expected) in [
        (format!("{{{good}, \"functions\": [1]}}"), "field 'functions' is a list"),
        (format!("{{{good}, \"chat_template_kwargs\": 3}}"), "field 'chat_template_kwargs' is a number"),
        (format!("{{{good}, \"chat_template_kwargs\": {{\"messages\": 3}}}}"), "has 'messages'"),
        (
            format!("{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": [{{\"type\": \"image\"}}]}}]}}"),
            "message 2 whose content has a part 1 of type \"image\"",
        ),
        (format!("{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": null}}]}}"), "content is null"),
        (format!("{{\"messages\": [{user}, {{\"content\": \"a\"}}]}}"), "message 2 whose role is missing"),
    ] {
        let error = rows_of::<CompletionRow>(&line).unwrap_err();
        assert!(error.contains("rows.jsonl: line 1: ") && error.contains(expected), "{error}");
    }
    // What says nothing, what is said elsewhere, and what is no part of it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jsonl");
    let lines = r#"{"prompt": "What is it?", "question": "What is it?", "system": "", "chosen": "a", "rejected": "b", "id": 7}
{"prompt": "x", "chosen": "a", "rejected": "b", "id": 8, "source": "s", "tools": []}"#;
    std::fs::write(&path, lines).unwrap();
    let paths = [path];
    let (_, skipped) = read_all::<PreferenceRow>(&paths, &ReadConfig::default()).unwrap();
    let remark = "fields that are not read: id, question, source, system (in up to 2 rows)";
    assert_eq!(skipped.unread_fields().as_deref(), Some(remark));
    let lines = r#"{"question": "Sky?", "prompt": "x", "chosen": "a", "rejected": "b"}"#;
    std::fs::write(&paths[0], lines).unwrap();
    let config = ReadConfig { ignore_fields: vec!["question".into()], ..ReadConfig::default() };
    assert_eq!(read_all::<PreferenceRow>(&paths, &config).unwrap().0.len(), 1);

    let calls =
        r#"{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}"#;
    let line = format!(
        "{{\"tools\": \"[{{\\\"name\\\": \\\"f\\\"}}]\", \"documents\": null, \"chat_template_kwargs\": {{\"a\": 1}}, \
         \"messages\": [{user}, {calls}]}}"
    );
    let row = &rows_of::<CompletionRow>(&line).unwrap()[0];
    assert_eq!(row.extras.tools, Some(serde_json::json!([{"name": "f"}])));
    assert_eq!((row.extras.variables["a"].as_i64(), &row.extras.documents), (Some(1), &None));
    let Content::Chat(answer) = &row.completion else { panic!("a chat") };
    assert!(answer[0].content.is_empty() && answer[0].object.contains_key("tool_calls"));
    let parts = r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#;
    let line = format!("{{\"messages\": [{user}, {{\"role\": \"assistant\", \"content\": {parts}}}]}}");
    let row = &rows_of::<CompletionRow>(&line).unwrap()[0];
    assert!(matches!(&row.completion, Content::Chat(m) if m[0].content == "ab" && m[0].object["content"].is_array()));
}

#[test]
fn lines_and_archives_have_limits() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let error = |path: PathBuf, config: &ReadConfig| read_all::<PromptRow>(&[path], config).unwrap_err().to_string();
    let line =
        |length: usize| format!("{{\"prompt\": \"x\"}}\n{{\"prompt\": \"{}\"}}\n", "x".repeat(length)).into_bytes();
    let small = ReadConfig { max_line_bytes: 1000, ..ReadConfig::default() };
    let found = error(file("long.jsonl", &line(2000)), &small);
    assert!(
        found.contains("long.jsonl: line 2: is longer than 1000 bytes") && found.contains("--max-line-bytes"),
        "{found}"
    );
    assert_eq!(read_all::<PromptRow>(&[file("fits.jsonl", &line(900))], &small).unwrap().0.len(), 2);
    let zip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let usual = ReadConfig::default();
    let bomb = zip(&b"\n".repeat(64 << 20));
    let found = error(file("bomb.jsonl.gz", &bomb), &usual);
    assert!(found.contains("bomb.jsonl.gz: line ") && found.contains("blank lines"), "{found}");
    let bomb = zip(&line(2000).repeat(16 << 10));
    let found = error(file("rows.jsonl.gz", &bomb), &usual);
    assert!(found.contains("rows.jsonl.gz: line ") && found.contains("200 times"), "{found}");
    let bomb = zip(&[b'x'; 64 << 20]);
    let found = error(file("line.jsonl.gz", &bomb), &usual);
    assert!(found.contains("line.jsonl.gz: line 1: is longer than 16777216 bytes"), "{found}");
    let raised = ReadConfig { max_ratio: 10_000, ..ReadConfig::default() };
    let small = zip(&line(2000).repeat(9 << 10));
    assert!(error(file("small.jsonl.gz", &small), &usual).contains("200 times"));
    assert_eq!(read_all::<PromptRow>(&[file("small.jsonl.gz", &small)], &raised).unwrap().0.len(), 18 << 10);
    #[cfg(unix)]
    if Path::new("/dev/zero").exists() {
        let found = error("/dev/zero".into(), &usual);
        assert!(found.contains("/dev/zero: line 1: is longer than"), "{found}");
    }
}

#[test]
fn skipped_rows_are_counted_and_the_first_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jsonl");
    std::fs::write(&path, "{}\n{\"prompt\": \"x\"}\n".to_owned() + &"{\"prompt\": 1}\n".repeat(20)).unwrap();
    let config = ReadConfig { skip_bad_rows: true, ..ReadConfig::default() };
    let (rows, skipped) = read_all::<PromptRow>(&[path], &config).unwrap();
    assert_eq!((rows.len(), rows[0].origin.line), (1, 2));
    assert_eq!((skipped.count, skipped.first.len()), (21, 10));
    assert!(skipped.first[0].contains("p.jsonl: line 1: field 'prompt' is missing"));
    let path = folder.path().join("q.jsonl");
    std::fs::write(&path, "{}\n").unwrap();
    let error = read_all::<PromptRow>(&[path], &config).unwrap_err().to_string();
    assert!(error.contains("has no good row (1 bad ones") && error.contains("expected rows {\"prompt\"}"), "{error}");
}

#[test]
fn files_are_read_in_order_compressed_or_not() {
    let zip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    file("b.jsonl.gz", &[zip("{\"text\": \"3\"}\n"), zip("{\"text\": \"4\"}")].concat());
    // Compressed, whatever the name says; and a byte order mark, and lines of Windows.
    file("a.jsonl", &zip("\u{feff}{\"text\": \"1\"}\r\n\r\n{\"text\": \"2\"}\r\n"));
    file("c.txt", b"5\n\n6\n");
    file("ignored.json", b"{}");
    let texts = |text_lines| -> Vec<String> {
        let config = ReadConfig { text_lines, ..ReadConfig::default() };
        read::<Document>(&[folder.path().to_owned()], &config).unwrap().map(|row| row.unwrap().text).collect()
    };
    assert_eq!(texts(false), ["1", "2", "3", "4", "5\n\n6\n"]);
    assert_eq!(texts(true), ["1", "2", "3", "4", "5", "6"]);

    let error = |name: &str| match read_all::<PromptRow>(&[folder.path().join(name)], &ReadConfig::default()) {
        Ok(_) => panic!("{name} was read"),
        Err(error) => error.to_string(),
    };
    assert!(error("c.txt").contains("is a text file; expected JSONL with rows {\"prompt\"}"));
    assert!(error("none.jsonl").contains("none.jsonl: cannot read"));
    let whole = zip(&"{\"prompt\": \"x\"}\n".repeat(3));
    file("torn.jsonl.gz", &whole[..whole.len() - 9]);
    assert!(error("torn.jsonl.gz").contains("torn.jsonl.gz: cannot read line "), "{}", error("torn.jsonl.gz"));
    file("latin.jsonl", b"{\"prompt\": \"\xe9\"}");
    assert!(error("latin.jsonl").contains("line 1: not a JSON object (not UTF-8 text)"));
    let empty = tempfile::tempdir().unwrap();
    let error = read_all::<PromptRow>(&[empty.path().to_owned()], &ReadConfig::default()).unwrap_err().to_string();
    assert!(error.contains("has no .jsonl or .jsonl.gz file"), "{error}");
}

#[test]
fn the_order_of_an_epoch_is_a_permutation_of_its_own() {
    let first = order(7, 0, 100);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    assert_eq!(first, order(7, 0, 100));
    assert_ne!(first, order(7, 1, 100));
    assert_ne!(first, order(8, 0, 100));
    // As first written: checkpoints of an older build must go on in the same order.
    assert_eq!(order(0, 0, 8), [1, 2, 4, 6, 0, 5, 3, 7]);
}
