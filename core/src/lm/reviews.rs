//! A world of short reviews, for language models small enough to be trained on the spot, whose rewards are known
//! exactly.
//!
//! [`review`] writes a text. [`attributes`] reads sentiment, politeness, specificity and length from any text, even
//! from the half-broken text of a model. Both use the words and templates of `assets/reviews.toml`, but in different
//! ways: the writer adds up what it chose, the reader adds up what it finds. A test shows that they agree.
//!
//! The reader looks for judgements ("tasty", "fell apart"), each with a known valence from −2 to 2. The four words
//! before a judgement count, back to a comma, a joining word or the judgement before: an intensifier makes it 1.5 times
//! as strong, a weakener half as strong, and a negation turns it to minus one half of itself ("not superb" is mildly
//! bad). Whatever a sentence says before "but", and whatever follows "although" up to the next comma or the end of the
//! sentence, is conceded and has half the weight. A judgement that a text repeats counts only the first time.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// A text and its attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// The text, one line.
    pub text: String,
    /// The attributes that the writer gave it; [`attributes`] of the text are the same.
    pub attributes: Attributes,
}

/// Attributes of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributes {
    /// How good it says its subject is, in (−1, 1): m / √(1 + m²) with m = Σ w·v / (1 + Σ w), where w and v are the
    /// weights and valences of its judgements. It is 0 for a text that judges nothing. More judgements of the same kind
    /// add less and less, and repeated ones add nothing.
    pub sentiment: f64,
    /// How polite it is to its readers, in (−1, 1): the same formula over its different markers of politeness ("thank
    /// you", 1) and rudeness ("idiots", −2), all with weight 1.
    pub politeness: f64,
    /// n / (n + 2), in [0, 1), for n different details: amounts (one for each unit), places, dates and named parts.
    pub specificity: f64,
    /// Words: stretches between white space that hold a letter or a digit.
    pub words: usize,
}

/// Writes a review of 2 to 7 sentences: an opening, judgements, events and details that follow a mood most of the
/// time, and often a verdict.
///
/// The overall mood is drawn uniformly from −1 to 1. The beginning of a text says little about the mood: most openings
/// are facts.
#[must_use]
pub fn review(rng: &mut Rng) -> Review {
    let book = &*PHRASEBOOK;
    let topic = pick(rng, &book.topics);
    let mood = rng.random_range(-1.0..1.0);
    let manners = rng.random_range(-1.0..1.0) + MANNERS_OF_MOOD * mood;
    let exactness = rng.random_range(0.0..1.0);
    let mut draft = Draft::new(book, topic, mood, exactness);
    let (polite, mannered) = (manners > 0.0, manners.abs() > MANNERED);
    let (greeting, verdict) = (mannered && chance(rng, 0.2), chance(rng, 0.5));
    let courtesies = usize::from(mannered) + usize::from(manners.abs() > VERY_MANNERED);
    let room = SENTENCES - 1 - usize::from(greeting) - usize::from(verdict) - courtesies;
    let judgements = rng.random_range(1..=4).min(room);
    let mut details = room - judgements;
    if greeting {
        draft.sentence(rng, if polite { &book.greeting_polite } else { &book.greeting_rude }, None);
    }
    draft.sentence(rng, &topic.opening, None);
    for _ in 0..judgements {
        draft.judgement(rng);
        if details > 0 && chance(rng, 0.5 * exactness) {
            draft.sentence(rng, &topic.detail, None);
            details -= 1;
        }
    }
    // Courtesies stand before the verdict or after it.
    let tone = if polite { &book.polite } else { &book.rude };
    let early = if chance(rng, 0.5) { courtesies } else { 0 };
    (0..early).for_each(|_| draft.sentence(rng, tone, None));
    if verdict {
        draft.verdict(rng);
    }
    (early..courtesies).for_each(|_| draft.sentence(rng, tone, None));
    draft.finish()
}

/// The attributes of any text, even of one that no review would contain.
#[must_use]
pub fn attributes(text: &str) -> Attributes {
    let book = &*PHRASEBOOK;
    let lower = text.to_lowercase().replace('’', "'");
    let tokens = tokens(&lower);
    let mut findings = Findings::default();
    // Where the reach of modifiers begins, the first judgement of the sentence, and whether the words are conceded.
    let (mut reach, mut sentence, mut conceded) = (0, 0, false);
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        if token.gap != Gap::None {
            (reach, conceded) = (i, false);
        }
        if token.gap == Gap::Sentence {
            sentence = findings.judgements.len();
        }
        if let Some((words, entry)) = book.lexicon.phrase_at(&tokens[i..]) {
            let before = &tokens[reach.max(i.saturating_sub(REACH))..i];
            let factor = before.iter().filter_map(|t| book.modifiers.get(t.word)).product();
            findings.add(entry, factor, if conceded { CONCEDED } else { 1.0 });
            i += words;
            reach = i;
            continue;
        }
        if book.joining.iter().any(|word| word == token.word) {
            reach = i + 1;
        }
        if token.word == "but" {
            findings.judgements[sentence..].iter_mut().for_each(|j| j.1 = CONCEDED);
            reach = i + 1;
        }
        if book.conceding.iter().any(|word| word == token.word) {
            (reach, conceded) = (i + 1, true);
        }
        if let Some(unit) = tokens.get(i + 1).filter(|next| next.gap == Gap::None)
            && token.word.bytes().all(|b| b.is_ascii_digit())
            && let Some(&entry) = book.lexicon.units.get(unit.word)
        {
            findings.add(entry, 1.0, 1.0);
        }
        i += 1;
    }
    findings.attributes(text)
}

/// Splits a text after its first `words` words, which are separated by white space, into prompt and completion. The
/// completion begins with the white space before its first word, so together they are the text.
#[must_use]
pub fn prefix(text: &str, words: usize) -> (&str, &str) {
    let (mut seen, mut within) = (0, false);
    for (at, c) in text.char_indices() {
        let space = c.is_whitespace();
        if seen == words && (space || !within) {
            return text.split_at(at);
        }
        seen += usize::from(!space && !within);
        within = !space;
    }
    (text, "")
}

/// Number of words: stretches between white space that hold a letter or a digit.
pub fn words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count()
}

/// Words before a judgement in which a modifier counts.
const REACH: usize = 4;
/// Weight of conceded judgements; all others have the weight 1.
const CONCEDED: f64 = 0.5;
/// Factors of a valence after an intensifier, a weakener and a negation.
const STRONG: f64 = 1.5;
const WEAK: f64 = 0.5;
const NEGATED: f64 = -0.5;
/// Largest valence, with any number of intensifiers: as the valence 2 with one intensifier.
const MOST: f64 = 3.0;
/// Share of judgements that are neither good nor bad.
const NEUTRAL: f64 = 0.06;
/// How much of the mood goes into the manners: pleased people are a little politer.
const MANNERS_OF_MOOD: f64 = 0.15;
/// Manners, good or bad, from which on a text shows them.
const MANNERED: f64 = 0.35;
/// Manners from which on a text shows them twice.
const VERY_MANNERED: f64 = 0.75;
/// Most sentences of a text.
const SENTENCES: usize = 7;

static PHRASEBOOK: LazyLock<Phrasebook> = LazyLock::new(|| {
    Phrasebook::read(include_str!("../../../assets/reviews.toml"))
        .expect("the asset is part of the program, and tests read it")
});

/// The asset as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asset {
    modifiers: Words,
    forms: Words,
    links: Words,
    amounts: BTreeMap<String, AssetAmounts>,
    names: BTreeMap<String, AssetNames>,
    lists: Words,
    kinds: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    general: Words,
    groups: BTreeMap<String, AssetGroup>,
    topics: Vec<AssetTopic>,
}

type Words = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetAmounts {
    units: Vec<(String, u32, u32, u32)>,
    vague: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetNames {
    exact: Vec<String>,
    vague: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetGroup {
    past: bool,
    opening: Vec<String>,
    judging: Vec<String>,
    event: Vec<String>,
    detail: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetTopic {
    group: String,
    items: Vec<String>,
    kind: String,
    #[serde(default)]
    stay: Option<String>,
    #[serde(default)]
    consumed: Option<String>,
    parts: Vec<String>,
    named: Vec<String>,
    event: Vec<String>,
    detail: Vec<String>,
}

/// The asset, ready for use.
struct Phrasebook {
    topics: Vec<Topic>,
    closing: Vec<Template>,
    polite: Vec<Template>,
    rude: Vec<Template>,
    greeting_polite: Vec<Template>,
    greeting_rude: Vec<Template>,
    kinds: BTreeMap<String, WordsBySign>,
    forms: Words,
    links: Words,
    amounts: BTreeMap<String, AssetAmounts>,
    names: BTreeMap<String, AssetNames>,
    lists: Words,
    lexicon: Lexicon,
    modifiers: HashMap<String, f64>,
    conceding: Vec<String>,
    joining: Vec<String>,
}

struct Topic {
    past: bool,
    items: Vec<String>,
    kind: String,
    stay: String,
    consumed: String,
    parts: Vec<Part>,
    named: Vec<String>,
    opening: Vec<Template>,
    judging: Vec<Template>,
    conceding_first: Vec<Template>,
    conceding_last: Vec<Template>,
    event: Vec<Template>,
    detail: Vec<Template>,
}

struct Part {
    word: String,
    kind: String,
    plural: bool,
}

/// Words that judge: bad, neutral and good ones.
#[derive(Default, Clone)]
struct WordsBySign([Vec<Word>; 3]);

#[derive(Clone)]
struct Word {
    text: String,
    valence: f64,
    entry: Entry,
}

struct Template {
    pieces: Vec<Piece>,
    /// Whether its judgements are good (1) or bad (−1); 0 where it has none of its own.
    sign: i8,
}

enum Piece {
    Text(String),
    /// A judgement or marker that the template has, and its factor there.
    Fixed(String, Entry, f64),
    Slot(String),
}

/// A phrase that the reader knows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    id: usize,
    meaning: Meaning,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning {
    Judgement(f64),
    Marker(f64),
    Detail,
}

/// Phrases by their first word, the longest first.
#[derive(Default)]
struct Lexicon {
    phrases: HashMap<String, Vec<(Vec<String>, Entry)>>,
    units: HashMap<String, Entry>,
    size: usize,
}

impl Lexicon {
    fn add(&mut self, phrase: &str, meaning: Meaning) -> Result<Entry, String> {
        let lower = phrase.to_lowercase();
        let words: Vec<String> = tokens(&lower).iter().map(|t| t.word.to_owned()).collect();
        let first = words.first().ok_or("an empty phrase")?;
        let list = self.phrases.entry(first.clone()).or_default();
        if let Some((_, known)) = list.iter().find(|(w, _)| *w == words) {
            let same = known.meaning == meaning;
            return same.then_some(*known).ok_or(format!("'{phrase}' is {meaning:?} and {:?}", known.meaning));
        }
        let entry = Entry { id: self.size, meaning };
        self.size += 1;
        list.push((words, entry));
        list.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
        Ok(entry)
    }

    fn add_unit(&mut self, unit: &str) -> Entry {
        let new = Entry { id: self.size, meaning: Meaning::Detail };
        self.size += 1;
        *self.units.entry(unit.to_owned()).or_insert(new)
    }

    /// The longest phrase that begins with the first of these tokens, and its number of words.
    fn phrase_at(&self, tokens: &[Token<'_>]) -> Option<(usize, Entry)> {
        let list = self.phrases.get(tokens.first()?.word)?;
        let fits = |words: &[String]| {
            let rest = tokens.get(1..words.len())?;
            rest.iter().zip(&words[1..]).all(|(t, w)| t.word == w && t.gap == Gap::None).then_some(words.len())
        };
        list.iter().find_map(|(words, entry)| Some((fits(words)?, *entry)))
    }
}

impl Phrasebook {
    fn read(text: &str) -> Result<Self, String> {
        let asset: Asset = toml::from_str(text).map_err(|e| e.to_string())?;
        let mut lexicon = Lexicon::default();
        let kinds = read_kinds(&asset.kinds, &mut lexicon)?;
        for names in asset.names.values() {
            for name in &names.exact {
                lexicon.add(name, Meaning::Detail)?;
            }
        }
        for (unit, ..) in asset.amounts.values().flat_map(|a| &a.units) {
            lexicon.add_unit(unit);
        }
        let mut read = |lists: &[&Vec<String>]| -> Result<Vec<Template>, String> {
            lists.iter().copied().flatten().map(|text| Template::read(text, &mut lexicon)).collect()
        };
        let general = |name: &str| asset.general.get(name).ok_or(format!("[general] lacks {name}"));
        let mut topics = Vec::new();
        for topic in asset.topics {
            let group = asset.groups.get(&topic.group).ok_or(format!("no group '{}'", topic.group))?;
            topics.push(Topic {
                past: group.past,
                stay: topic.stay.unwrap_or_else(|| "stay".to_owned()),
                consumed: topic.consumed.unwrap_or_default(),
                parts: topic.parts.iter().map(|p| Part::read(p)).collect::<Result<_, _>>()?,
                opening: read(&[&group.opening])?,
                judging: read(&[general("judging")?, &group.judging])?,
                conceding_first: read(&[general("conceding_first")?])?,
                conceding_last: read(&[general("conceding_last")?])?,
                event: read(&[&topic.event, &group.event])?,
                detail: read(&[&topic.detail, &group.detail, general("detail")?])?,
                items: topic.items,
                kind: topic.kind,
                named: topic.named,
            });
        }
        let [closing, polite, rude] =
            [read(&[general("closing")?])?, read(&[general("polite")?])?, read(&[general("rude")?])?];
        let greeting_polite = read(&[general("greeting_polite")?])?;
        let greeting_rude = read(&[general("greeting_rude")?])?;
        for named in topics.iter().flat_map(|t| &t.named) {
            lexicon.add(named, Meaning::Detail)?;
        }
        let words = |name: &str| asset.modifiers.get(name).cloned().ok_or(format!("[modifiers] lacks {name}"));
        let mut modifiers = HashMap::new();
        for (name, factor) in [("strong", STRONG), ("weak", WEAK), ("negation", NEGATED)] {
            modifiers.extend(words(name)?.into_iter().map(|word| (word, factor)));
        }
        Ok(Self {
            topics,
            closing,
            polite,
            rude,
            greeting_polite,
            greeting_rude,
            kinds,
            forms: asset.forms,
            links: asset.links,
            amounts: asset.amounts,
            names: asset.names,
            lists: asset.lists,
            lexicon,
            modifiers,
            conceding: words("conceding")?,
            joining: words("joining")?,
        })
    }
}

/// The kinds of words. All kinds but the verbs also have the words of the kind `any`.
fn read_kinds(asset: &BTreeMap<String, Words>, lexicon: &mut Lexicon) -> Result<BTreeMap<String, WordsBySign>, String> {
    let mut kinds = BTreeMap::new();
    for (name, levels) in asset {
        let mut kind = WordsBySign::default();
        for (level, words) in levels {
            let valence = match level.as_str() {
                "very_bad" => -2.0,
                "bad" => -1.0,
                "neutral" => 0.0,
                "good" => 1.0,
                "very_good" => 2.0,
                other => return Err(format!("kinds.{name} has a level '{other}'")),
            };
            for text in words {
                let entry = lexicon.add(text, Meaning::Judgement(valence))?;
                kind.0[slot_of_sign(sign_of(valence))].push(Word { text: text.clone(), valence, entry });
            }
        }
        kinds.insert(name.clone(), kind);
    }
    let any = kinds.get("any").cloned().ok_or("no kinds.any")?;
    for (name, kind) in &mut kinds {
        if !matches!(name.as_str(), "any" | "felt") {
            kind.0.iter_mut().zip(&any.0).for_each(|(own, any)| own.extend(any.iter().cloned()));
        }
    }
    Ok(kinds)
}

impl Part {
    fn read(text: &str) -> Result<Self, String> {
        let mut fields = text.split('/');
        let mut next = || fields.next().map(str::to_owned);
        let (word, kind) = next().zip(next()).ok_or(format!("the part '{text}' has no kind"))?;
        Ok(Self { word, kind, plural: next().is_some() })
    }
}

impl Template {
    fn read(text: &str, lexicon: &mut Lexicon) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut total = 0.0;
        let mut rest = text;
        while let Some(open) = rest.find(['[', '<', '{']) {
            let close = rest[open..].find([']', '>', '}']).ok_or(format!("'{text}': a bracket is not closed"))? + open;
            let inner = &rest[open + 1..close];
            pieces.push(Piece::Text(rest[..open].to_owned()));
            if rest[open..].starts_with('{') {
                pieces.push(Piece::Slot(inner.to_owned()));
            } else {
                let (value, phrase) = inner.split_once(' ').ok_or(format!("'{text}': '{inner}' has no value"))?;
                let number = value.trim_start_matches('~');
                let factor = if number == value { 1.0 } else { NEGATED };
                let number: f64 = number.parse().map_err(|_| format!("'{text}': '{value}' is no number"))?;
                let marker = rest[open..].starts_with('<');
                let meaning = if marker { Meaning::Marker(number) } else { Meaning::Judgement(number) };
                total += if marker { 0.0 } else { number * factor };
                pieces.push(Piece::Fixed(phrase.to_owned(), lexicon.add(phrase, meaning)?, factor));
            }
            rest = &rest[close + 1..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self { pieces, sign: sign_of(total) })
    }
}

/// What was found in a text, or what a text is planned to hold.
#[derive(Default)]
struct Findings {
    seen: Vec<usize>,
    /// Valence after modifiers, and weight.
    judgements: Vec<(f64, f64)>,
    markers: Vec<f64>,
    details: usize,
}

impl Findings {
    /// Adds a phrase, unless the text has it already.
    fn add(&mut self, entry: Entry, factor: f64, weight: f64) {
        if self.seen.contains(&entry.id) {
            return;
        }
        self.seen.push(entry.id);
        match entry.meaning {
            Meaning::Judgement(valence) => self.judgements.push(((valence * factor).clamp(-MOST, MOST), weight)),
            Meaning::Marker(value) => self.markers.push(value),
            Meaning::Detail => self.details += 1,
        }
    }

    fn attributes(&self, text: &str) -> Attributes {
        let details = self.details as f64;
        Attributes {
            sentiment: bounded(self.judgements.iter().copied()),
            politeness: bounded(self.markers.iter().map(|&value| (value, 1.0))),
            specificity: details / (details + 2.0),
            words: words(text),
        }
    }
}

/// m / √(1 + m²) of the mean m of weighted values and one further value of 0. All operations give the same bits on
/// every machine.
fn bounded(values: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, weight) = values.fold((0.0, 1.0), |(sum, weight), (v, w)| (sum + w * v, weight + w));
    let mean = sum / weight;
    mean / (1.0 + mean * mean).sqrt()
}

/// What is before a word: only white space, punctuation within a sentence, or the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    None,
    Clause,
    Sentence,
}

struct Token<'a> {
    word: &'a str,
    gap: Gap,
}

/// Words of a text in small letters: letters, digits, apostrophes and hyphens.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::with_capacity(text.len() / 5 + 1);
    let (mut start, mut gap) = (None, Gap::None);
    for (at, c) in text.char_indices() {
        if c.is_alphanumeric() || (start.is_some() && matches!(c, '\'' | '-')) {
            start.get_or_insert(at);
            continue;
        }
        if let Some(start) = start.take() {
            tokens.push(Token { word: text[start..at].trim_end_matches(['\'', '-']), gap });
            gap = Gap::None;
        }
        match c {
            '.' | '!' | '?' | '\n' => gap = Gap::Sentence,
            c if !c.is_whitespace() && gap == Gap::None => gap = Gap::Clause,
            _ => {}
        }
    }
    tokens.extend(start.map(|start| Token { word: text[start..].trim_end_matches(['\'', '-']), gap }));
    tokens
}

/// A review in the making.
struct Draft<'w> {
    book: &'w Phrasebook,
    topic: &'w Topic,
    item: &'w str,
    mood: f64,
    exactness: f64,
    text: String,
    plan: Findings,
    templates: Vec<&'w Template>,
    parts: Vec<usize>,
    part: Option<&'w Part>,
    /// Signs and weights that the next judgements of this sentence shall have, the last one first. Without one, the
    /// sign follows the mood, and the weight is 1.
    wanted: Vec<(i8, f64)>,
    /// Sign of the last sentence; 0 where it did not judge or judged both ways. Linking phrases depend on it.
    last: i8,
}

impl<'w> Draft<'w> {
    fn new(book: &'w Phrasebook, topic: &'w Topic, mood: f64, exactness: f64) -> Self {
        Self {
            book,
            topic,
            item: "",
            mood,
            exactness,
            text: String::with_capacity(400),
            plan: Findings::default(),
            templates: Vec::new(),
            parts: Vec::new(),
            part: None,
            wanted: Vec::new(),
            last: 0,
        }
    }

    fn finish(self) -> Review {
        Review { attributes: self.plan.attributes(&self.text), text: self.text }
    }

    /// A sign that fits the mood.
    fn sign(&self, rng: &mut Rng) -> i8 {
        if chance(rng, NEUTRAL) {
            return 0;
        }
        let x = 2.0 * self.mood;
        if chance(rng, 0.5 + 0.5 * x / (1.0 + x * x).sqrt()) { 1 } else { -1 }
    }

    /// A sentence that judges: an event, two contrasting judgements, or plain judgements.
    fn judgement(&mut self, rng: &mut Rng) {
        let (sign, topic) = (self.sign(rng), self.topic);
        let (before, start) = (self.last, self.text.len());
        let form = rng.random_range(0.0..1.0);
        if sign != 0 && form < 0.15 {
            self.wanted = vec![(sign, 1.0), (-sign, CONCEDED)];
            return self.sentence(rng, &topic.conceding_first, None);
        }
        if sign != 0 && form < 0.25 {
            self.wanted = vec![(-sign, CONCEDED), (sign, 1.0)];
            return self.sentence(rng, &topic.conceding_last, None);
        }
        if sign != 0 && form < 0.55 {
            self.sentence(rng, &topic.event, Some(sign));
        } else {
            self.wanted = vec![(sign, 1.0)];
            self.sentence(rng, &topic.judging, None);
        }
        self.last = sign;
        if before * sign != 0 && chance(rng, 0.25) {
            self.link(rng, if before == sign { "same" } else { "opposite" }, start);
        }
    }

    /// A closing sentence that agrees with the judgements so far, or does not judge.
    fn verdict(&mut self, rng: &mut Rng) {
        let total: f64 = self.plan.judgements.iter().map(|(v, w)| v * w).sum();
        let sign = if chance(rng, 0.25) { 0 } else { sign_of(total) };
        self.sentence(rng, &self.book.closing, Some(sign));
    }

    /// One sentence from a template, with this sign if one is given. Templates that the text has not used come first.
    fn sentence(&mut self, rng: &mut Rng, templates: &'w [Template], sign: Option<i8>) {
        let fits: Vec<&Template> = templates.iter().filter(|t| sign.is_none_or(|sign| t.sign == sign)).collect();
        let unused = |t: &&Template| !self.templates.iter().any(|used| std::ptr::eq(*used, *t));
        let fresh: Vec<&Template> = fits.iter().copied().filter(unused).collect();
        let template = *pick(rng, if fresh.is_empty() { &fits } else { &fresh });
        self.templates.push(template);
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        let start = self.text.len();
        self.last = 0;
        for piece in &template.pieces {
            match piece {
                Piece::Text(text) => self.push(text),
                Piece::Fixed(text, entry, factor) => {
                    self.push(text);
                    self.plan.add(*entry, *factor, 1.0);
                }
                Piece::Slot(name) => self.fill(rng, name),
            }
        }
        let first: String = self.text[start..].chars().take(1).flat_map(char::to_uppercase).collect();
        let old = self.text[start..].chars().next().map_or(0, char::len_utf8);
        self.text.replace_range(start..start + old, &first);
    }

    /// Puts a linking phrase before the sentence that begins at `start`, after the space there.
    fn link(&mut self, rng: &mut Rng, kind: &str, start: usize) {
        let at = self.text.len() - self.text[start..].trim_start().len();
        let keeps_capital = self.text[at..].starts_with("I ");
        if !keeps_capital && let Some(first) = self.text[at..].chars().next() {
            self.text.replace_range(at..at + first.len_utf8(), &first.to_lowercase().to_string());
        }
        self.text.insert_str(at, phrase(rng, &self.book.links[kind]));
    }

    /// Appends words. An "a" before a vowel becomes "an".
    fn push(&mut self, words: &str) {
        let article = self.text.ends_with(" a ") || self.text.ends_with(" A ");
        if article && words.starts_with(['a', 'e', 'i', 'o', 'u']) && !words.starts_with("us") {
            self.text.insert(self.text.len() - 1, 'n');
        }
        self.text.push_str(words);
    }

    fn fill(&mut self, rng: &mut Rng, slot: &str) {
        let (book, topic) = (self.book, self.topic);
        let plural = self.part.is_some_and(|part| part.plural);
        match slot {
            "item" => {
                if self.item.is_empty() {
                    self.item = phrase(rng, &topic.items);
                }
                self.push(self.item);
            }
            "part" => {
                let free: Vec<usize> = (0..topic.parts.len()).filter(|i| !self.parts.contains(i)).collect();
                let choice = if free.is_empty() { rng.random_range(0..topic.parts.len()) } else { *pick(rng, &free) };
                self.parts.push(choice);
                self.part = Some(&topic.parts[choice]);
                self.push(&topic.parts[choice].word);
            }
            "is" => self.push(match (topic.past, plural) {
                (false, false) => "is",
                (false, true) => "are",
                (true, false) => "was",
                (true, true) => "were",
            }),
            "be" => self.push(if topic.past { "was" } else { "is" }),
            "seems" => self.push(match (topic.past, plural) {
                (false, false) => "seems",
                (false, true) => "seem",
                (true, _) => "seemed",
            }),
            "eval" => self.judge(rng, self.part.map_or(&topic.kind, |part| &part.kind), Position::Predicate),
            "adj" => self.judge(rng, &topic.kind, Position::Attribute),
            "~adj" => self.judge(rng, &topic.kind, Position::Negated),
            "felt" => self.judge(rng, "felt", Position::Verb),
            "consumed" => self.push(&topic.consumed),
            "named" => {
                let named = phrase(rng, &topic.named);
                self.detail(named);
            }
            slot => {
                let slot = if slot == "stay" { &topic.stay } else { slot };
                let exact = chance(rng, self.exactness);
                if let Some(amounts) = book.amounts.get(slot) {
                    if !exact {
                        return self.push(phrase(rng, &amounts.vague));
                    }
                    let (unit, least, most, step) = pick(rng, &amounts.units);
                    let number = least + step * rng.random_range(0..=(most - least) / step);
                    self.push(&format!("{number} {unit}"));
                    self.plan.add(book.lexicon.units[unit], 1.0, 1.0);
                } else if let Some(names) = book.names.get(slot) {
                    let name = phrase(rng, if exact { &names.exact } else { &names.vague });
                    if exact { self.detail(name) } else { self.push(name) }
                } else {
                    self.push(phrase(rng, &book.lists[slot]));
                }
            }
        }
    }

    fn detail(&mut self, phrase: &str) {
        self.push(phrase);
        let lower = phrase.to_lowercase();
        let found = self.book.lexicon.phrase_at(&tokens(&lower));
        let (_, entry) = found.expect("every exact name and named part was added to the lexicon");
        self.plan.add(entry, 1.0, 1.0);
    }

    /// Writes a judgement with the next sign that is wanted.
    fn judge(&mut self, rng: &mut Rng, kind: &str, form: Position) {
        let (mut sign, weight) = self.wanted.pop().unwrap_or_else(|| (self.sign(rng), 1.0));
        let (words, forms) = (&self.book.kinds[kind].0, &self.book.forms);
        let negates = match form {
            Position::Negated => true,
            // People say "never liked", but not "never resented".
            Position::Verb => sign < 0 && chance(rng, 0.25),
            Position::Predicate => chance(rng, 0.18),
            Position::Attribute => false,
        };
        if sign == 0 && (negates || words[slot_of_sign(0)].is_empty()) {
            sign = if chance(rng, 0.5) { 1 } else { -1 };
        }
        let word = self.word(rng, &words[slot_of_sign(if negates { -sign } else { sign })], negates);
        let extreme = word.valence.abs() > 1.0;
        let roll = rng.random_range(0.0..1.0);
        let (name, factor) = match form {
            Position::Negated => ("", NEGATED),
            Position::Verb if negates => ("felt_negated", NEGATED),
            Position::Predicate if negates && sign < 0 && roll < 0.5 => ("negated_strong", STRONG * NEGATED),
            Position::Predicate if negates => (if sign < 0 { "negated_good" } else { "negated_bad" }, NEGATED),
            _ if sign == 0 => ("", 1.0),
            Position::Verb if roll < 0.3 => ("felt_strong", STRONG),
            Position::Verb if roll < 0.4 && !extreme => ("felt_weak", WEAK),
            Position::Predicate | Position::Attribute if roll < 0.25 && extreme => ("strong_extreme", STRONG),
            Position::Predicate | Position::Attribute if roll < 0.25 => ("strong_mild", STRONG),
            Position::Predicate if roll < 0.4 && !extreme && sign > 0 => ("weak_good", WEAK),
            Position::Predicate if roll < 0.4 && !extreme => ("weak_bad", WEAK),
            _ => ("", 1.0),
        };
        if !name.is_empty() {
            self.push(phrase(rng, &forms[name]));
            self.push(" ");
        }
        self.push(&word.text);
        self.plan.add(word.entry, factor, weight);
    }

    /// One of these words, if possible one that the text does not have; a mild one if asked for: people say "not good",
    /// but not "not atrocious".
    fn word(&self, rng: &mut Rng, words: &'w [Word], mild: bool) -> &'w Word {
        let fits = |word: &&Word| (!mild || word.valence.abs() <= 1.0) && !self.plan.seen.contains(&word.entry.id);
        let fresh: Vec<&Word> = words.iter().filter(fits).collect();
        if fresh.is_empty() { pick(rng, words) } else { fresh[rng.random_range(0..fresh.len())] }
    }
}

/// The place of a judgement in its sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Position {
    Predicate,
    Attribute,
    /// An attribute, in a template that negates it.
    Negated,
    Verb,
}

fn pick<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.random_range(0..list.len())]
}

fn phrase<'a>(rng: &mut Rng, list: &'a [String]) -> &'a str {
    pick::<String>(rng, list)
}

fn chance(rng: &mut Rng, probability: f64) -> bool {
    rng.random_range(0.0..1.0) < probability
}

fn sign_of(value: f64) -> i8 {
    i8::from(value > 0.0) - i8::from(value < 0.0)
}

fn slot_of_sign(sign: i8) -> usize {
    (sign + 1) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Attributes, Review, attributes, prefix, review};
    use crate::preference::pearson;
    use crate::random::stream;

    fn reviews(count: usize) -> Vec<Review> {
        let mut rng = stream(0, "reviews", 0);
        (0..count).map(|_| review(&mut rng)).collect()
    }

    #[test]
    fn the_reader_finds_exactly_what_the_writer_planned() {
        for review in reviews(40_000) {
            assert_eq!(attributes(&review.text), review.attributes, "{}", review.text);
        }
    }

    /// Sums worked out by hand: valence times modifiers, weights, and one value of 0 in the mean.
    #[test]
    fn the_reader_reads_any_text() {
        let squash = |mean: f64| mean / (1.0 + mean * mean).sqrt();
        for (text, mean) in [
            ("", 0.0),
            ("tasty", 1.0 / 2.0),
            ("The soup was not very TASTY!", -0.75 / 2.0),
            ("really really superb", 3.0 / 2.0),
            ("a bit bland and superb", 1.5 / 3.0),
            // Neither a full stop nor a comma lets a negation through.
            ("It was not. Tasty, not, superb", 3.0 / 3.0),
            // What is repeated counts once, as it stood first.
            ("not tasty tasty tasty tasty", -0.5 / 2.0),
            ("The soup was tasty, but the cakes were inedible.", (0.5 - 2.0) / 2.5),
            ("Superb. It was tasty but bland", (2.0 + 0.5 - 1.0) / 3.5),
            ("Although the soup was tasty, the cakes were stale, though superb", (0.5 - 1.0 + 1.0) / 3.0),
            ("It fell was tasty the the never let us", 1.0 / 2.0),
            ("never let us down", 1.0 / 2.0),
            ("It was acceptable and good", 1.0 / 3.0),
        ] {
            assert_eq!(attributes(text).sentiment, squash(mean), "{text}");
        }
        for (text, politeness, details, words) in [
            ("Thank you, thank you, you idiots!", -1.0 / 3.0, 0.0, 6),
            ("Kindly wait 5 minutes, 6 minutes, 7 hours - in Leeds", 0.5, 3.0, 10),
            ("minutes 5 . minutes thank. you", 0.0, 0.0, 5),
        ] {
            let expected = Attributes {
                sentiment: 0.0,
                politeness: squash(politeness),
                specificity: details / (details + 2.0),
                words,
            };
            assert_eq!(attributes(text), expected, "{text}");
        }
    }

    #[test]
    fn texts_are_varied_broad_and_balanced() {
        let reviews = reviews(40_000);
        let n = reviews.len();
        let distinct: BTreeSet<&str> = reviews.iter().map(|review| review.text.as_str()).collect();
        assert!(distinct.len() * 100 > n * 99, "{} of {n} are distinct", distinct.len());
        let column = |get: fn(&Attributes) -> f64| -> Vec<f64> { reviews.iter().map(|r| get(&r.attributes)).collect() };
        let sentiment = column(|a| a.sentiment);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        assert!(mean(&sentiment).abs() < 0.03, "{}", mean(&sentiment));
        for range in [-1.0..-0.7, -0.7..-0.4, -0.4..0.0, 0.01..0.4, 0.4..0.7, 0.7..1.0] {
            let share = sentiment.iter().filter(|s| range.contains(*s)).count() as f64 / n as f64;
            assert!((0.05..0.3).contains(&share), "{range:?}: {share}");
        }
        let (politeness, specificity) = (column(|a| a.politeness), column(|a| a.specificity));
        assert!((0.02..0.2).contains(&pearson(&sentiment, &politeness).unwrap()));
        // What went wrong is told with its date a little more often.
        let correlation = pearson(&sentiment, &specificity).unwrap();
        assert!(correlation.abs() < 0.05, "{correlation}");
        let words = column(|a| a.words as f64);
        assert!((35.0..50.0).contains(&mean(&words)), "{}", mean(&words));
        let usual = words.iter().filter(|words| (15.0..=80.0).contains(*words)).count();
        assert!(usual * 100 > n * 97, "{usual} of {n} have 15 to 80 words");
        // Full stops stand nowhere but at the ends of sentences.
        assert!(reviews.iter().all(|r| (2..=7).contains(&r.text.split_inclusive(['.', '?']).count())));
    }

    /// Prompts are beginnings: good and bad endings must both be likely after every common one.
    #[test]
    fn a_beginning_does_not_say_how_a_review_ends() {
        let reviews = reviews(40_000);
        for words in 2..=8 {
            let mut endings: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            for review in &reviews {
                let (good, all) = endings.entry(prefix(&review.text, words).0).or_default();
                *good += usize::from(review.attributes.sentiment > 0.0);
                *all += 1;
            }
            for (beginning, (good, all)) in endings.into_iter().filter(|(_, (_, all))| *all >= 150) {
                assert!((0.3..0.7).contains(&(good as f64 / all as f64)), "'{beginning}': {good} of {all}");
            }
            let judged = reviews.iter().filter(|r| attributes(prefix(&r.text, words).0).sentiment != 0.0).count();
            assert!(judged * 50 < reviews.len(), "{words} words: {judged}");
        }
    }

    #[test]
    fn a_prefix_and_its_rest_are_the_text() {
        for (text, words, expected) in [
            ("One two  three.", 2, ("One two", "  three.")),
            (" One", 0, ("", " One")),
            ("One", 0, ("", "One")),
            ("  One two", 1, ("  One", " two")),
            ("One two", 2, ("One two", "")),
            ("One", 5, ("One", "")),
            ("", 3, ("", "")),
        ] {
            assert_eq!(prefix(text, words), expected, "'{text}' {words}");
        }
    }
}
