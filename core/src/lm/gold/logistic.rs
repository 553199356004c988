//! Logistic regression on words and pairs of words: a classifier of whole texts that needs no weights from elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reward::GoldError;
use crate::disk::DiskError;
use crate::disk::archive::write_atomically;
use crate::preference::likelihood::{log_sigmoid, sigmoid};
use crate::range::OutOfRange;

/// How a classifier is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticConfig {
    /// Pairs of neighbouring words are features, too, not only single words.
    pub bigrams: bool,
    /// A feature that a text has n times counts 1 + ln n there, not n.
    pub sublinear: bool,
    /// How many texts must have a feature for it to be used.
    pub min_documents: usize,
    /// Most features. The most frequent ones are used; among equally frequent ones, the first by the alphabet.
    pub max_features: usize,
    /// λ in the loss Σ −ln σ(±z) + λ/2·‖w‖² over all texts; the bias is not penalised. It is scikit-learn's 1/C.
    pub l2: f64,
}

/// A trained classifier of texts, as it is saved.
///
/// A text's features are the counts of its words and pairs of words, times their inverse document frequency
/// ln((1 + n) / (1 + n_feature)) + 1 over the n training texts, scaled to length 1 (what scikit-learn's
/// `TfidfVectorizer` computes). Words are stretches of letters and apostrophes in small letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogisticModel {
    /// Identifies the file as a classifier of this kind.
    pub format: String,
    /// How it was trained.
    pub config: LogisticConfig,
    /// Texts it was trained on.
    pub texts: usize,
    /// Share of these texts that it classifies right.
    pub training_accuracy: f64,
    /// Steps that the training took.
    pub iterations: usize,
    /// Greatest component of the gradient at the end, in the loss of [`LogisticConfig::l2`].
    pub gradient: f64,
    /// Log-odds of a text without features.
    pub bias: f64,
    /// Features, sorted; the two words of a pair have a space between them.
    pub vocabulary: Vec<String>,
    /// Inverse document frequency of each feature.
    pub idf: Vec<f64>,
    /// Weight of each feature.
    pub weights: Vec<f64>,
}

/// A classifier ready for use.
#[derive(Debug, Clone)]
pub struct Logistic {
    model: LogisticModel,
    index: HashMap<String, usize>,
}

/// The `format` of a saved model.
const FORMAT: &str = "pairwise logistic 1";
/// Training ends when no component of the gradient exceeds this share of the number of texts. scikit-learn's default is
/// 10⁴ times larger; at 10⁻⁶ the log-odds of the tests' small problem were still off by 10⁻⁵.
const TOLERANCE: f64 = 1e-8;
/// Steps after which training ends in any case; a strongly convex loss of this kind needs tens of them.
const MAX_ITERATIONS: usize = 1000;
/// Pairs of steps and gradients that L-BFGS remembers; 10 is usual.
const MEMORY: usize = 10;

impl Default for LogisticConfig {
    /// Usual choices, not tuned. An ignored test demands more than 90 % right answers on IMDB's test reviews.
    fn default() -> Self {
        Self { bigrams: true, sublinear: true, min_documents: 2, max_features: 300_000, l2: 0.1 }
    }
}

impl LogisticConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        check("min_documents", self.min_documents as f64, self.min_documents > 0, "at least 1")?;
        check("max_features", self.max_features as f64, self.max_features > 0, "at least 1")?;
        check("l2", self.l2, self.l2 > 0.0, "positive and finite")
    }
}

/// Trains on texts and whether each is positive, to convergence.
///
/// L-BFGS (Liu & Nocedal 1989) runs over all texts. The loss is smooth and strongly convex, so there is one optimum.
/// Nothing is drawn at random: the same texts give the same weights, to the bit, with any number of threads.
///
/// # Errors
/// The first error among the rows, settings out of range, or texts that cannot be told apart: of one class only, or
/// without features.
pub fn train<E: Into<GoldError>>(
    rows: impl Iterator<Item = Result<(String, bool), E>>,
    config: &LogisticConfig,
) -> Result<Logistic, GoldError> {
    config.validate()?;
    let mut corpus = Corpus::default();
    let mut positive = Vec::new();
    for row in rows {
        let (text, label) = row.map_err(Into::into)?;
        corpus.add(&text);
        positive.push(label);
    }
    let count = positive.iter().filter(|&&label| label).count();
    if count == 0 || count == positive.len() {
        let reason = format!("{count} of {} texts are positive; there must be some of both classes", positive.len());
        return Err(GoldError::Data(reason));
    }
    let features = corpus.features(config);
    if features.is_empty() {
        let reason = format!("no word is in at least min_documents = {} texts", config.min_documents);
        return Err(GoldError::Data(reason));
    }
    let texts = positive.len();
    let idf = |documents: usize| ((1.0 + texts as f64) / (1.0 + documents as f64)).ln() + 1.0;
    let mut model = LogisticModel {
        format: FORMAT.to_owned(),
        config: config.clone(),
        texts,
        training_accuracy: 0.0,
        iterations: 0,
        gradient: 0.0,
        bias: 0.0,
        idf: features.iter().map(|feature| idf(feature.documents)).collect(),
        weights: vec![0.0; features.len()],
        vocabulary: features.iter().map(|feature| feature.text.clone()).collect(),
    };
    let problem = Regression { rows: corpus.rows(&features, &model), positive, l2: config.l2 };
    let optimum = minimise(|x| problem.loss(x), vec![0.0; features.len() + 1], TOLERANCE * texts as f64);
    (model.iterations, model.gradient) = (optimum.iterations, optimum.gradient);
    model.weights.copy_from_slice(&optimum.x[1..]);
    model.bias = optimum.x[0];
    let right = problem.rows.iter().zip(&problem.positive).filter(|(row, p)| (row.score(&optimum.x) > 0.0) == **p);
    model.training_accuracy = right.count() as f64 / texts as f64;
    Ok(Logistic::new(model))
}

/// Labelled texts of a JSON Lines file, `.gz` or not: objects with a `text` and a `label` of 0, 1, "neg" or "pos". The
/// file's name can give the label of rows without one: `….pos.jsonl`, `….neg.jsonl`. Other fields are ignored.
///
/// `skip` are the numbers of lines that are left out unread, from 1 as in errors: published files have wrong lines.
///
/// # Errors
/// When the file cannot be opened. Each row that cannot be used is an error of its own. At the end, each line to be
/// left out that the file does not have is an error.
pub fn read_labelled(
    path: &Path,
    skip: &[usize],
) -> Result<impl Iterator<Item = Result<(String, bool), GoldError>> + use<>, GoldError> {
    let path = path.to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parts: Vec<&str> = name.split('.').collect();
    let by_name = match (parts.contains(&"pos"), parts.contains(&"neg")) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    };
    let mut lines = open_lines(&path)?.lines().zip(1..);
    let mut skip: BTreeSet<usize> = skip.iter().copied().collect();
    Ok(std::iter::from_fn(move || {
        let row = lines
            .find(|(line, number)| !skip.remove(number) && !line.as_ref().is_ok_and(|line| line.trim().is_empty()));
        let Some((line, number)) = row else {
            let missing = skip.pop_first()?;
            let reason = "is to be left out, but the file does not have it".to_owned();
            return Some(Err(DiskError::Line { path: path.clone(), line: missing, reason }.into()));
        };
        let row = line.map_err(|error| DiskError::io(&path, "read")(error).into()).and_then(|line| {
            let wrong = |reason| GoldError::from(DiskError::Line { path: path.clone(), line: number, reason });
            parse_row(&line, by_name).map_err(wrong)
        });
        Some(row)
    }))
}

impl Logistic {
    /// Makes a model ready for use.
    fn new(model: LogisticModel) -> Self {
        let index = model.vocabulary.iter().enumerate().map(|(i, feature)| (feature.clone(), i)).collect();
        Self { model, index }
    }

    /// Reads a saved model.
    ///
    /// # Errors
    /// When there is no such file, or it is not a model.
    pub fn read(path: &Path) -> Result<Self, GoldError> {
        let wrong = |reason| GoldError::Model { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(DiskError::io(path, "read"))?;
        let model: LogisticModel = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if model.format != FORMAT {
            return Err(wrong(format!("its format is '{}', expected '{FORMAT}'", model.format)));
        }
        let sizes = [model.vocabulary.len(), model.idf.len(), model.weights.len()];
        if sizes.iter().any(|&size| size != sizes[0]) {
            return Err(wrong(format!("vocabulary, idf and weights have different lengths: {sizes:?}")));
        }
        Ok(Self::new(model))
    }

    /// Saves the model; a file that is there is replaced as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), GoldError> {
        let json = serde_json::to_vec(&self.model).expect("numbers and strings always serialise");
        Ok(write_atomically(path, &json).map_err(DiskError::io(path, "write"))?)
    }

    /// The model as it is saved.
    #[must_use]
    pub fn model(&self) -> &LogisticModel {
        &self.model
    }

    /// Log-odds that a text is positive.
    #[must_use]
    pub fn log_odds(&self, text: &str) -> f64 {
        let row = self.row(text);
        self.model.bias + row.0.iter().map(|&(i, value)| value * self.model.weights[i as usize]).sum::<f64>()
    }

    /// Probability that a text is positive.
    #[must_use]
    pub fn probability(&self, text: &str) -> f64 {
        sigmoid(self.log_odds(text))
    }

    fn row(&self, text: &str) -> TextFeatures {
        let lower = text.to_lowercase();
        let words: Vec<&str> = words(&lower).collect();
        let mut found: Vec<u32> = words.iter().filter_map(|word| self.index.get(*word)).map(|&i| i as u32).collect();
        if self.model.config.bigrams {
            let pairs = words.windows(2).filter_map(|pair| self.index.get(&pair.join(" ")));
            found.extend(pairs.map(|&i| i as u32));
        }
        TextFeatures::new(found, &self.model)
    }
}

/// Words of a text that is in small letters already.
fn words(lower: &str) -> impl Iterator<Item = &str> {
    let stretches = lower.split(|c: char| !c.is_alphabetic() && c != '\'');
    stretches.map(|word| word.trim_matches('\'')).filter(|word| !word.is_empty())
}

/// Texts as numbers of words.
#[derive(Default)]
struct Corpus {
    numbers: HashMap<String, u32>,
    words: Vec<String>,
    texts: Vec<Vec<u32>>,
}

struct Feature {
    text: String,
    /// The numbers of its words, as [`Corpus::keys`] packs them.
    key: u64,
    documents: usize,
}

impl Corpus {
    fn add(&mut self, text: &str) {
        let lower = text.to_lowercase();
        let mut numbers = Vec::new();
        for word in words(&lower) {
            let number = self.numbers.get(word).copied().unwrap_or_else(|| {
                let number = self.words.len() as u32;
                self.numbers.insert(word.to_owned(), number);
                self.words.push(word.to_owned());
                number
            });
            numbers.push(number);
        }
        self.texts.push(numbers);
    }

    /// Keys of a text's words and pairs. The lower half of a key is the number of the first word, plus 1; the upper
    /// half is the number of the second word, plus 1, or 0 for a single word.
    fn keys(text: &[u32], bigrams: bool) -> impl Iterator<Item = u64> {
        let single = text.iter().map(|&word| u64::from(word) + 1);
        let pairs = if bigrams { text } else { &[] };
        single.chain(pairs.windows(2).map(|pair| (u64::from(pair[1]) + 1) << 32 | (u64::from(pair[0]) + 1)))
    }

    fn text(&self, key: u64) -> String {
        let word = |half: u64| self.words[half as usize - 1].as_str();
        match (key & u64::from(u32::MAX), key >> 32) {
            (only, 0) => word(only).to_owned(),
            (first, second) => format!("{} {}", word(first), word(second)),
        }
    }

    /// The features that are used, sorted.
    fn features(&self, config: &LogisticConfig) -> Vec<Feature> {
        // For each key: how often it occurs, in how many texts, and the last text that had it.
        let mut counts: HashMap<u64, (usize, usize, usize)> = HashMap::new();
        for (i, text) in self.texts.iter().enumerate() {
            for key in Self::keys(text, config.bigrams) {
                let (times, documents, last) = counts.entry(key).or_insert((0, 0, usize::MAX));
                *times += 1;
                *documents += usize::from(*last != i);
                *last = i;
            }
        }
        counts.retain(|_, (_, documents, _)| *documents >= config.min_documents);
        let name = |(key, (times, documents, _))| (times, Feature { text: self.text(key), key, documents });
        let mut features: Vec<(usize, Feature)> = counts.into_iter().map(name).collect();
        features.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.text.cmp(&y.text)));
        features.truncate(config.max_features);
        let mut features: Vec<Feature> = features.into_iter().map(|(_, feature)| feature).collect();
        features.sort_by(|a, b| a.text.cmp(&b.text));
        features
    }

    fn rows(&self, features: &[Feature], model: &LogisticModel) -> Vec<TextFeatures> {
        let index: HashMap<u64, u32> = features.iter().enumerate().map(|(i, f)| (f.key, i as u32)).collect();
        let found = |text: &[u32]| -> Vec<u32> {
            Self::keys(text, model.config.bigrams).filter_map(|key| index.get(&key).copied()).collect()
        };
        self.texts.iter().map(|text| TextFeatures::new(found(text), model)).collect()
    }
}

/// A text's features: index and value, by index, of Euclidean length 1 (or none at all).
struct TextFeatures(Vec<(u32, f64)>);

impl TextFeatures {
    fn new(mut found: Vec<u32>, model: &LogisticModel) -> Self {
        found.sort_unstable();
        let values = found.chunk_by(|a, b| a == b).map(|same| {
            let times = same.len() as f64;
            let times = if model.config.sublinear { 1.0 + times.ln() } else { times };
            (same[0], times * model.idf[same[0] as usize])
        });
        let mut values: Vec<(u32, f64)> = values.collect();
        let length = values.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        values.iter_mut().for_each(|(_, value)| *value /= length);
        Self(values)
    }

    /// Log-odds with bias and weights, in this order.
    fn score(&self, x: &[f64]) -> f64 {
        x[0] + self.0.iter().map(|&(i, value)| value * x[i as usize + 1]).sum::<f64>()
    }
}

struct Regression {
    rows: Vec<TextFeatures>,
    positive: Vec<bool>,
    l2: f64,
}

impl Regression {
    /// Σ −ln σ(±z) + λ/2·‖w‖² and its gradient, for bias and weights.
    fn loss(&self, x: &[f64]) -> (f64, Vec<f64>) {
        let mut gradient: Vec<f64> = x.iter().map(|w| self.l2 * w).collect();
        gradient[0] = 0.0;
        let mut loss = 0.5 * self.l2 * dot(&x[1..], &x[1..]);
        for (row, &positive) in self.rows.iter().zip(&self.positive) {
            let score = row.score(x);
            loss -= log_sigmoid(if positive { score } else { -score });
            let slope = sigmoid(score) - f64::from(u8::from(positive));
            gradient[0] += slope;
            row.0.iter().for_each(|&(i, value)| gradient[i as usize + 1] += slope * value);
        }
        (loss, gradient)
    }
}

struct Optimum {
    x: Vec<f64>,
    iterations: usize,
    /// Greatest component of the gradient.
    gradient: f64,
}

/// Minimises a convex function from its value and gradient with L-BFGS, until no component of the gradient exceeds
/// `tolerance`, or rounding errors leave no descent.
fn minimise(function: impl Fn(&[f64]) -> (f64, Vec<f64>), mut x: Vec<f64>, tolerance: f64) -> Optimum {
    let (mut value, mut gradient) = function(&x);
    let mut history: Vec<Pair> = Vec::new();
    let mut iterations = 0;
    while greatest(&gradient) > tolerance && iterations < MAX_ITERATIONS {
        let direction = direction(&gradient, &history);
        let Some(next) = line_search(&function, &x, value, &gradient, &direction) else {
            if history.is_empty() {
                break;
            }
            // The history no longer describes the function here: begin again with steepest descent.
            history.clear();
            continue;
        };
        let step: Vec<f64> = next.0.iter().zip(&x).map(|(new, old)| new - old).collect();
        let change: Vec<f64> = next.2.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let curvature = dot(&step, &change);
        if history.len() == MEMORY {
            history.remove(0);
        }
        // Positive by the second condition of the line search.
        history.push(Pair { step, change, curvature });
        (x, value, gradient) = next;
        iterations += 1;
    }
    let gradient = greatest(&gradient);
    Optimum { x, iterations, gradient }
}

struct Pair {
    step: Vec<f64>,
    /// Change of the gradient.
    change: Vec<f64>,
    /// Product of the two.
    curvature: f64,
}

/// Minus the inverse Hessian, as the history has it, times the gradient: Nocedal & Wright 2006, algorithm 7.4.
fn direction(gradient: &[f64], history: &[Pair]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let alpha = dot(&pair.step, &q) / pair.curvature;
        add(&mut q, -alpha, &pair.change);
        alphas.push(alpha);
    }
    match history.last() {
        Some(pair) => {
            let scale = pair.curvature / dot(&pair.change, &pair.change);
            q.iter_mut().for_each(|q| *q *= scale);
        }
        // A first step of length 1 at most, whatever the scale of the loss.
        None => {
            let scale = dot(&q, &q).sqrt().max(1.0);
            q.iter_mut().for_each(|q| *q /= scale);
        }
    }
    for (pair, alpha) in history.iter().zip(alphas.iter().rev()) {
        let beta = dot(&pair.change, &q) / pair.curvature;
        add(&mut q, alpha - beta, &pair.step);
    }
    q
}

/// A step along a direction that lessens value and slope enough (the weak Wolfe conditions, with the usual constants),
/// found by doubling and halving. Returns the point, its value and its gradient; `None` if rounding leaves none.
fn line_search(
    function: &impl Fn(&[f64]) -> (f64, Vec<f64>),
    x: &[f64],
    value: f64,
    gradient: &[f64],
    direction: &[f64],
) -> Option<(Vec<f64>, f64, Vec<f64>)> {
    let slope = dot(gradient, direction);
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, 1.0);
    // 60 halvings reach the last bit.
    for _ in 0..60 {
        let mut point = x.to_vec();
        add(&mut point, t, direction);
        let (new, new_gradient) = function(&point);
        if new.is_nan() || new > value + 1e-4 * t * slope {
            high = t;
        } else if dot(&new_gradient, direction) < 0.9 * slope {
            low = t;
        } else {
            return Some((point, new, new_gradient));
        }
        t = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    None
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |greatest, value| greatest.max(value.abs()))
}

fn open_lines(path: &Path) -> Result<Box<dyn BufRead>, GoldError> {
    let file = File::open(path).map_err(DiskError::io(path, "read"))?;
    let gz = path.extension().is_some_and(|extension| extension == "gz");
    Ok(if gz { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(BufReader::new(file)) })
}

fn parse_row(line: &str, by_name: Option<bool>) -> Result<(String, bool), String> {
    let row: Value = serde_json::from_str(line).map_err(|error| format!("not a JSON object ({error})"))?;
    let text = row.get("text").and_then(Value::as_str).ok_or("has no text 'text'")?;
    let label = match row.get("label") {
        None => {
            by_name.ok_or("has no 'label' (0, 1, \"neg\" or \"pos\"), nor does the file's name say it (….pos.jsonl)")?
        }
        Some(label) => match (label.as_u64(), label.as_str()) {
            (Some(0), _) | (_, Some("neg")) => false,
            (Some(1), _) | (_, Some("pos")) => true,
            _ => return Err(format!("the label is {label}; it must be 0, 1, \"neg\" or \"pos\"")),
        },
    };
    Ok((text.to_owned(), label))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{
        Corpus, GoldError, Logistic, LogisticConfig, LogisticModel, Regression, TextFeatures, read_labelled, train,
    };

    const TEXTS: [(&str, bool); 8] = [
        ("The soup was good, really good.", true),
        ("Good service and a lovely view", true),
        ("I don't like the soup", false),
        ("The view was not good", false),
        ("Lovely soup, lovely people", true),
        ("Bad service, bad soup, bad view", false),
        ("The people don't care", false),
        ("We like the service", true),
    ];

    fn small(config: &LogisticConfig) -> Logistic {
        let rows = TEXTS.iter().map(|(text, label)| Ok::<_, GoldError>(((*text).to_owned(), *label)));
        train(rows, config).unwrap()
    }

    /// `decision_function` of scikit-learn 1.9.1: `TfidfVectorizer(ngram_range, sublinear_tf, min_df, token_pattern)`
    /// with words of letters and inner apostrophes, `LogisticRegression(C = 1 / l2, tol = 1e-12)`.
    #[test]
    fn it_agrees_with_scikit_learn() {
        let cases = [
            (
                true,
                true,
                1,
                0.1,
                48,
                [0.714582431604521, -1.5196529850170863, -0.023920961869876974, 0.8186561591111227],
            ),
            (
                true,
                false,
                2,
                1.0,
                12,
                [0.14278849828424134, -0.295457127965448, -0.00438655725710052, 0.31555523554591375],
            ),
            (
                false,
                true,
                2,
                2.0,
                10,
                [0.08471622777367004, -0.16371962707820395, 0.0023506965021923365, 0.17653856808944662],
            ),
        ];
        for (bigrams, sublinear, min_documents, l2, features, expected) in cases {
            let config = LogisticConfig { bigrams, sublinear, min_documents, max_features: 1000, l2 };
            let logistic = small(&config);
            assert_eq!(logistic.model().vocabulary.len(), features);
            let texts = ["A good soup", "Bad people don't like soup", "unknown", "good good lovely view was good"];
            for (text, expected) in texts.iter().zip(expected) {
                let found = logistic.log_odds(text);
                assert!((found - expected).abs() < 1e-6, "{config:?} '{text}': {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let model = small(&LogisticConfig { min_documents: 1, ..LogisticConfig::default() });
        let rows: Vec<TextFeatures> = TEXTS.iter().map(|(text, _)| model.row(text)).collect();
        let problem = Regression { rows, positive: TEXTS.iter().map(|(_, label)| *label).collect(), l2: 0.3 };
        let x: Vec<f64> = (0..=model.model().weights.len()).map(|i| (i as f64).sin()).collect();
        let (_, gradient) = problem.loss(&x);
        for i in 0..x.len() {
            let at = |h: f64| {
                let mut moved = x.clone();
                moved[i] += h;
                problem.loss(&moved).0
            };
            assert!((gradient[i] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-8, "component {i}");
        }
    }

    #[test]
    fn features_are_the_most_frequent_ones_and_sorted() {
        let mut corpus = Corpus::default();
        ["b b a", "a c, b", "c d"].iter().for_each(|text| corpus.add(text));
        let config =
            |min_documents, max_features| LogisticConfig { min_documents, max_features, ..LogisticConfig::default() };
        let names = |config| corpus.features(&config).into_iter().map(|f| f.text).collect::<Vec<_>>();
        assert_eq!(names(config(1, 3)), ["a", "b", "c"]);
        assert_eq!(names(config(1, 5)), ["a", "a c", "b", "b a", "c"]);
        assert_eq!(names(config(2, 9)), ["a", "b", "c"]);
    }

    #[test]
    fn a_saved_model_is_the_same_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.json");
        let logistic = small(&LogisticConfig::default());
        logistic.save(&path).unwrap();
        assert_eq!(Logistic::read(&path).unwrap().model(), logistic.model());
        assert_eq!(small(&LogisticConfig::default()).model(), logistic.model(), "training is deterministic");
        for damage in [|m: &mut LogisticModel| m.format = "x".into(), |m: &mut LogisticModel| m.idf.clear()] {
            let mut model = logistic.model().clone();
            damage(&mut model);
            std::fs::write(&path, serde_json::to_vec(&model).unwrap()).unwrap();
            assert!(matches!(Logistic::read(&path), Err(GoldError::Model { .. })));
        }
    }

    #[test]
    fn rows_are_read_with_their_labels_or_the_file_s() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, content: &[u8]| -> Vec<Result<(String, bool), String>> {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            read_labelled(&path, &[]).unwrap().map(|row| row.map_err(|error| error.to_string())).collect()
        };
        let rows = read("a.jsonl", b"{\"text\":\"x\",\"label\":1}\n\n{\"text\":\"y\",\"label\":\"neg\",\"id\":4}\n");
        assert_eq!(rows, [Ok(("x".to_owned(), true)), Ok(("y".to_owned(), false))]);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"{\"text\":\"x\",\"rating\":3}\n").unwrap();
        assert_eq!(read("train.neg.jsonl.gz", &gz.finish().unwrap()), [Ok(("x".to_owned(), false))]);
        for (row, reason) in [
            ("{\"text\":\"x\"}", "line 1: has no 'label'"),
            ("{\"text\":\"x\",\"label\":2}", "line 1: the label is 2; it must be"),
            ("{\"label\":1}", "line 1: has no text"),
            ("x", "line 1: not a JSON object"),
        ] {
            let rows = read("a.jsonl", row.as_bytes());
            assert!(rows[0].as_ref().unwrap_err().contains(reason), "{rows:?}");
        }
        let path = folder.path().join("b.pos.jsonl");
        std::fs::write(&path, "no row\n\n{\"text\":\"x\"}\n{\"text\":\"y\"}\n").unwrap();
        let rows: Vec<_> = read_labelled(&path, &[1, 3, 9]).unwrap().collect();
        assert_eq!(rows[0].as_ref().unwrap(), &("y".to_owned(), true));
        assert!(rows[1].as_ref().unwrap_err().to_string().contains("line 9: is to be left out"), "{rows:?}");
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn what_cannot_be_learned_from_is_refused() {
        let config = LogisticConfig::default();
        let refused = |rows: &[(&str, bool)], config: &LogisticConfig| {
            let rows = rows.iter().map(|(text, label)| Ok::<_, GoldError>(((*text).to_owned(), *label)));
            train(rows, config).unwrap_err().to_string()
        };
        assert!(refused(&[], &config).contains("0 of 0 texts are positive"));
        assert!(refused(&[("a", true)], &config).contains("1 of 1 texts are positive"));
        assert!(refused(&[("a", true), ("b", false)], &config).contains("min_documents = 2"));
        assert!(refused(&TEXTS, &LogisticConfig { l2: 0.0, ..config }).starts_with("l2 = 0: "));
    }

    #[test]
    #[ignore = "takes minutes, and needs ../shared/data/imdb and sst2; prints accuracies"]
    fn imdb_is_learned_to_90_percent() {
        use crate::fixtures::shared;
        // The first line of each file of positive ones is no review.
        let rows = |split: &str| {
            let file = |label: &str, skip: &[usize]| {
                read_labelled(&shared(&format!("imdb/{split}.{label}.jsonl.gz")), skip).unwrap()
            };
            file("pos", &[1]).chain(file("neg", &[])).collect::<Vec<_>>()
        };
        let sst2: Vec<Result<(String, bool), GoldError>> = std::fs::read_to_string(shared("sst2/dev.tsv"))
            .unwrap()
            .lines()
            .map(|line| line.split_once('\t').map(|(text, label)| Ok((text.to_owned(), label == "1"))).unwrap())
            .collect();
        let test = rows("test");
        let accuracy = |logistic: &Logistic, rows: &[Result<(String, bool), GoldError>]| {
            let right = rows.iter().flatten().filter(|(text, label)| (logistic.log_odds(text) > 0.0) == *label);
            right.count() as f64 / rows.len() as f64
        };
        let start = std::time::Instant::now();
        let logistic = train(rows("train").into_iter(), &LogisticConfig::default()).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let LogisticModel { texts, training_accuracy, iterations, gradient, vocabulary, .. } = logistic.model();
        println!(
            "{texts} texts, {} features, {iterations} steps, gradient {gradient:.2e}: {seconds:.1} s",
            vocabulary.len()
        );
        let found = accuracy(&logistic, &test);
        println!(
            "train {training_accuracy:.4}, test {found:.4} of {}, SST-2 dev {:.4}",
            test.len(),
            accuracy(&logistic, &sst2)
        );
        assert!(found > 0.9, "{found}");
    }
}
