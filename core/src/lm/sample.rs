//! Sampling: a model writes, token by token, with the keys and values of what came before kept.
//!
//! Sequences are written in groups of a fixed size, each group by one thread. Every sequence draws from a stream of its
//! own. So a text depends neither on the number of threads nor on the progress of other texts.

use rand::RngExt as _;
use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::ParallelSlice as _;
use serde::{Deserialize, Serialize};

use super::config::{Family, Output};
use super::folder::merged;
use super::layout::{LinearAt, NormAt};
use super::model::Decoder;
use crate::nn::fused::decoder::{
    AttendToCache, Kept, Quantized, add, gated_silu_on_host, gelu_tanh_on_host, norm_on_host, project,
    project_quantized, rotate_on_host,
};
use crate::nn::to_host;
use crate::random::{Rng, stream};
use crate::range::OutOfRange;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws among this many likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Draws among the likeliest tokens that have this probability together (Holtzman et al. 2019, arXiv 1904.09751).
    pub top_p: f64,
    /// Draws among the tokens that have at least this share of the likeliest token's probability (Nguyen et al. 2024,
    /// arXiv 2407.01082).
    pub min_p: f64,
    /// Seed of every draw.
    pub seed: u64,
    /// Uses weights as 8-bit integers, with a scale for every 32 of them: little more than a quarter of the bytes, and
    /// bytes bound the speed of a single sequence of a larger model. The rounded weights write the text.
    pub quantize: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Its tokens, with a token that ends the text.
    pub ids: Vec<u32>,
    /// Why it ends.
    pub finish: Finish,
}

/// Why a completion ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// With a token that ends a text.
    Eos,
    /// With as many tokens as were allowed, or at the end of the model's context.
    Length,
    /// The caller asked to stop.
    Stop,
}

/// Sequences that a thread writes together.
const GROUP: usize = 32;

impl Default for SampleConfig {
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, quantize: false }
    }
}

impl SampleConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`OutOfRange`] with the first one.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        check("max_new_tokens", self.max_new_tokens as f64, self.max_new_tokens > 0, "a whole number from 1 on")?;
        check("temperature", self.temperature, self.temperature >= 0.0, "at least 0")?;
        check("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1")
    }

    /// Draws a token.
    ///
    /// # Shapes
    /// - `logits`: `[vocabulary]`
    #[must_use]
    pub fn draw(&self, logits: &[f32], rng: &mut Rng) -> u32 {
        let id = |index: usize| u32::try_from(index).expect("a vocabulary has fewer than 2³² tokens");
        let likeliest = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
        if self.temperature == 0.0 || self.top_k == 1 {
            return id(likeliest);
        }
        let largest = f64::from(logits[likeliest]);
        let weight = |i: usize| ((f64::from(logits[i]) - largest) / self.temperature).exp();
        let limited = self.top_k > 0 || self.top_p < 1.0;
        let mut candidates: Vec<(usize, f64)> = (0..logits.len()).map(|i| (i, weight(i))).collect();
        if limited {
            // Of equally likely tokens the one with the smaller number comes first, so that the order is unique.
            candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            if self.top_k > 0 {
                candidates.truncate(self.top_k);
            }
            if self.top_p < 1.0 {
                let enough = self.top_p * candidates.iter().map(|(_, weight)| weight).sum::<f64>();
                let mut sum = 0.0;
                let reaches = |(_, weight): &(usize, f64)| {
                    sum += weight;
                    sum >= enough
                };
                let last = candidates.iter().position(reaches).unwrap_or(candidates.len() - 1);
                candidates.truncate(last + 1);
            }
        }
        if self.min_p > 0.0 {
            candidates.retain(|(_, weight)| *weight >= self.min_p);
        }
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.random::<f64>() * total;
        for (index, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return id(*index);
            }
        }
        // Rounding may leave a rest after the last candidate.
        id(candidates.last().map_or(likeliest, |(index, _)| *index))
    }
}

/// Completions of `prompts`, in their order. A completion ends with a token of `eos`, or when `goes_on` returns false,
/// which is called after every token with the number of the prompt and the completion so far, from several threads.
///
/// Prompt i draws from the stream number `first + i`.
///
/// # Panics
/// When a prompt is empty, or fills the model's context.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    config: &SampleConfig,
    eos: &[u32],
    first: u64,
    goes_on: &(dyn Fn(usize, &[u32]) -> bool + Sync),
) -> Vec<Completion> {
    Pen::new(model, config.quantize).write(prompts, config, eos, first, goes_on)
}

/// A model with its weights on the host, ready to write in any number of calls.
pub(crate) struct Pen {
    writers: [Writer; 1],
}

impl Pen {
    /// `quantize` takes the place of [`SampleConfig::quantize`] in all calls.
    pub(crate) fn new(model: &Decoder, quantize: bool) -> Self {
        Self { writers: [Writer::new(model, quantize)] }
    }

    /// How many threads can write so many completions at the same time.
    pub(crate) fn threads(completions: usize) -> usize {
        completions.div_ceil(GROUP)
    }

    /// As [`generate`], in the threads of the pool that it is called in.
    ///
    /// # Panics
    /// When a prompt is empty, or fills the model's context.
    pub(crate) fn write(
        &self,
        prompts: &[Vec<u32>],
        config: &SampleConfig,
        eos: &[u32],
        first: u64,
        goes_on: &(dyn Fn(usize, &[u32]) -> bool + Sync),
    ) -> Vec<Completion> {
        let of_group = |(group, prompts): (usize, &[Vec<u32>])| {
            let written = write(&self.writers, &[1.0], prompts, config, eos, first, group * GROUP, goes_on);
            written.into_iter().map(|(completion, _)| completion)
        };
        prompts.par_chunks(GROUP).enumerate().flat_map_iter(of_group).collect()
    }
}

/// Completions by several models that write together: tokens are drawn from softmax(Σ w_i logits_i). If every model was
/// trained with the same pull to one reference, that is the policy of the weighted reward (Shi et al. 2024, arXiv
/// 2406.18853, for the reverse KL divergence). With each completion comes its log-probability, nats, by the mixture at
/// temperature 1 and without limits.
///
/// # Panics
/// When a prompt is empty or fills a context, or the models have different vocabularies.
#[must_use]
pub fn generate_mixed(
    models: &[(&Decoder, f64)],
    prompts: &[Vec<u32>],
    config: &SampleConfig,
    eos: &[u32],
    first: u64,
) -> Vec<(Completion, f64)> {
    let (models, weights): (Vec<&Decoder>, Vec<f64>) = models.iter().copied().unzip();
    let writers: Vec<Writer> = models.into_iter().map(|model| Writer::new(model, config.quantize)).collect();
    let of_group = |(group, prompts): (usize, &[Vec<u32>])| {
        write(&writers, &weights, prompts, config, eos, first, group * GROUP, &|_, _| true)
    };
    prompts.par_chunks(GROUP).enumerate().flat_map_iter(of_group).collect()
}

/// Writes one group, with log-probabilities where several models write.
fn write(
    writers: &[Writer],
    weights: &[f64],
    prompts: &[Vec<u32>],
    config: &SampleConfig,
    eos: &[u32],
    first: u64,
    offset: usize,
    goes_on: &(dyn Fn(usize, &[u32]) -> bool + Sync),
) -> Vec<(Completion, f64)> {
    let of_first = &writers[0].model.config;
    let vocabulary = of_first.vocabulary;
    assert!(
        writers.iter().all(|writer| writer.model.config.vocabulary == vocabulary),
        "models that write together have one vocabulary"
    );
    let context = writers.iter().map(|writer| writer.model.config.context).min().unwrap_or(of_first.context);
    assert!(prompts.iter().all(|prompt| prompt.len() < context), "a prompt leaves room for a completion");
    // For each model: for each layer, all sequences.
    let cache = |writer: &Writer| vec![Kept::default(); writer.model.config.layers * prompts.len()];
    let mut caches: Vec<Vec<Kept>> = writers.iter().map(cache).collect();
    let slot = |index: usize| Slot {
        index,
        ids: Vec::new(),
        place: 0,
        log_prob: 0.0,
        rng: stream(config.seed, "sample", first + (offset + index) as u64),
    };
    let mut slots: Vec<Slot> = (0..prompts.len()).map(slot).collect();
    let mut finished: Vec<Option<(Completion, f64)>> = vec![None; prompts.len()];
    let mut buffers = Buffers::default();
    let (mut logits, mut own) = (Vec::new(), Vec::new());
    // All prompts first, then one token of each sequence at a time.
    let mut next: Vec<Vec<u32>> = prompts.to_vec();
    while !slots.is_empty() {
        for (i, (writer, cache)) in writers.iter().zip(&mut caches).enumerate() {
            if i == 0 {
                writer.advance(&slots, &next, cache, prompts.len(), &mut buffers, &mut logits);
                if writers.len() > 1 {
                    logits.iter_mut().for_each(|logit| *logit *= weights[0] as f32);
                }
            } else {
                writer.advance(&slots, &next, cache, prompts.len(), &mut buffers, &mut own);
                logits.iter_mut().zip(&own).for_each(|(sum, own)| *sum += weights[i] as f32 * own);
            }
        }
        slots.iter_mut().zip(&next).for_each(|(slot, ids)| slot.place += ids.len());
        next.clear();
        let mut kept = Vec::with_capacity(slots.len());
        for (mut slot, logits) in slots.into_iter().zip(logits.chunks_exact(vocabulary)) {
            let id = config.draw(logits, &mut slot.rng);
            if writers.len() > 1 {
                slot.log_prob += log_prob(logits, id);
            }
            slot.ids.push(id);
            let finish = if eos.contains(&id) {
                Some(Finish::Eos)
            } else if !goes_on(offset + slot.index, &slot.ids) {
                Some(Finish::Stop)
            } else if slot.ids.len() >= config.max_new_tokens || slot.place + 1 >= context {
                Some(Finish::Length)
            } else {
                None
            };
            match finish {
                Some(finish) => {
                    finished[slot.index] = Some((Completion { ids: slot.ids, finish }, slot.log_prob));
                }
                None => {
                    next.push(vec![id]);
                    kept.push(slot);
                }
            }
        }
        slots = kept;
    }
    finished.into_iter().map(|completion| completion.expect("every sequence was written to its end")).collect()
}

fn log_prob(logits: &[f32], id: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    f64::from(logits[id as usize]) - largest - sum.ln()
}

/// A model's parameters on the host.
struct Writer {
    model: Decoder,
    parameters: Vec<Vec<f32>>,
    /// The rounded forms of the parameters that vectors are multiplied with, where they are to be rounded.
    quantized: Vec<Option<Quantized>>,
}

/// A sequence being written.
struct Slot {
    /// Number of its prompt.
    index: usize,
    /// Completion so far.
    ids: Vec<u32>,
    /// Tokens in the cache.
    place: usize,
    /// Log-probability of the completion by the mixture, where several models write.
    log_prob: f64,
    rng: Rng,
}

/// Memory that every step uses again.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    normalised: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
    up: Vec<f32>,
    activated: Vec<f32>,
    scores: Vec<f32>,
}

impl Writer {
    fn new(model: &Decoder, quantize: bool) -> Self {
        assert_eq!(model.config.output, Output::Tokens, "a model that scores does not write");
        let model = if model.adapters.is_some() { merged(model) } else { model.clone() };
        let mut parameters: Vec<Vec<f32>> = model.parameters.iter().map(|tensor| to_host(tensor.clone())).collect();
        let mut quantized: Vec<Option<Quantized>> = parameters.iter().map(|_| None).collect();
        if quantize {
            let multiplied = model.layout.linears().map(|at| at.weight).chain([model.layout.head]);
            for i in multiplied {
                let inputs = model.parameters[i].dims()[1];
                quantized[i] = Some(Quantized::of(&parameters[i], inputs));
                // Embeddings are looked up in their exact form, even where they are the head, too.
                if i != model.layout.embedding {
                    parameters[i] = Vec::new();
                }
            }
        }
        Self { model, parameters, quantized }
    }

    /// Reads the next tokens of every sequence, and computes the logits after each one's last.
    ///
    /// # Shapes
    /// - `logits`: becomes `[slots.len(), vocabulary]`
    fn advance(
        &self,
        slots: &[Slot],
        next: &[Vec<u32>],
        cache: &mut [Kept],
        sequences: usize,
        buffers: &mut Buffers,
        logits: &mut Vec<f32>,
    ) {
        let config = &self.model.config;
        let layout = &self.model.layout;
        let (hidden, heads) = (config.hidden, config.heads);
        // For each row its sequence, its place there, and its token.
        let places = slots.iter().zip(next).flat_map(|(slot, ids)| {
            let start = slot.place;
            ids.iter().enumerate().map(move |(i, &id)| (slot.index, start + i, id))
        });
        let rows: Vec<(usize, usize, u32)> = places.collect();
        assert!(rows.iter().all(|&(_, place, _)| place < config.context), "a sequence fits the model's context");
        let count = rows.len();
        // Rotations are computed only for these places: a context may be far longer than any text.
        let place = |&(_, place, _): &(usize, usize, u32)| u32::try_from(place).expect("a context is shorter");
        let rotation = config.rotation(&rows.iter().map(place).collect::<Vec<u32>>());
        let Buffers { x, normalised, qkv, attended, added, up, activated, scores } = buffers;
        x.clear();
        for &(_, place, id) in &rows {
            x.extend_from_slice(self.row(layout.embedding, id as usize));
            if let Some(positions) = layout.positions {
                let start = x.len() - hidden;
                add(&mut x[start..], self.row(positions, place));
            }
        }
        resize(normalised, count * hidden);
        resize(added, count * hidden);
        resize(qkv, count * heads.joint());
        resize(attended, count * heads.query_columns());
        for (layer, block) in layout.blocks.iter().enumerate() {
            self.normalise(block.attention_norm, x, normalised);
            self.project(block.qkv, normalised, hidden, qkv);
            if let Some(rotation) = &rotation {
                rotate_on_host(qkv, heads, rotation);
            }
            let (keys_at, values_at) = (heads.query_columns(), heads.query_columns() + heads.key_columns());
            for ((&(sequence, place, _), qkv), output) in
                rows.iter().zip(qkv.chunks_exact(heads.joint())).zip(attended.chunks_exact_mut(heads.query_columns()))
            {
                let kept = &mut cache[layer * sequences + sequence];
                kept.push(&qkv[keys_at..values_at], &qkv[values_at..], heads.width);
                AttendToCache {
                    query: &qkv[..keys_at],
                    kept,
                    first: config.window.map_or(0, |window| (place + 1).saturating_sub(window)),
                    heads,
                    scale: 1.0 / (heads.width as f32).sqrt(),
                    scores,
                    output,
                }
                .run();
            }
            self.project(block.output, attended, heads.query_columns(), added);
            add(x, added);
            self.normalise(block.mlp_norm, x, normalised);
            let wide = layout.tensors[block.up.weight].shape[0];
            resize(up, count * wide);
            resize(activated, count * config.intermediate);
            self.project(block.up, normalised, hidden, up);
            match config.family {
                Family::Gpt2 => gelu_tanh_on_host(up, activated),
                _ => gated_silu_on_host(up, config.intermediate, activated),
            }
            self.project(block.down, activated, config.intermediate, added);
            add(x, added);
        }
        // Only the logits after the last token of each sequence are needed.
        let mut last = Vec::with_capacity(slots.len() * hidden);
        let mut end = 0;
        for ids in next {
            end += ids.len();
            last.extend_from_slice(&x[(end - 1) * hidden..end * hidden]);
        }
        let mut final_hidden = vec![0.0; last.len()];
        self.normalise(layout.final_norm, &last, &mut final_hidden);
        resize(logits, slots.len() * config.vocabulary);
        self.project(LinearAt { weight: layout.head, bias: None }, &final_hidden, hidden, logits);
    }

    fn row(&self, parameter: usize, row: usize) -> &[f32] {
        let hidden = self.model.config.hidden;
        &self.parameters[parameter][row * hidden..(row + 1) * hidden]
    }

    fn normalise(&self, at: NormAt, x: &[f32], output: &mut [f32]) {
        let bias = at.bias.map(|i| self.parameters[i].as_slice());
        norm_on_host(x, &self.parameters[at.weight], bias, self.model.config.norm(), output);
    }

    fn project(&self, at: LinearAt, x: &[f32], inputs: usize, output: &mut [f32]) {
        let bias = at.bias.map(|i| self.parameters[i].as_slice());
        match &self.quantized[at.weight] {
            Some(weight) => project_quantized(x, weight, bias, output),
            None => project(x, &self.parameters[at.weight], bias, inputs, output),
        }
    }
}

/// Gives a buffer this length. Its values are overwritten later.
fn resize(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::Value;

    use super::{Finish, Quantized, SampleConfig, generate, generate_mixed};
    use crate::lm::batch::{Batch, Targets};
    use crate::lm::folder::read;
    use crate::lm::model::Decoder;
    use crate::nn::{constant, to_host};
    use crate::random::stream;

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    }

    fn greedy(tokens: usize) -> SampleConfig {
        SampleConfig { max_new_tokens: tokens, temperature: 0.0, ..SampleConfig::default() }
    }

    #[test]
    fn quantized_weights_write_as_a_model_with_the_rounded_ones() {
        assert_written_as_rounded([small()]);
    }

    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn quantized_weights_of_three_families_write_as_models_with_the_rounded_ones() {
        let data = crate::fixtures::shared("hf");
        let names = ["llama", "gpt2", "qwen2"];
        assert_written_as_rounded(names.map(|name| read(&data.join(name), &Device::flex()).unwrap().decoder));
    }

    /// Rounded weights are read as what they stand for: a model that has these exactly writes nearly the same.
    fn assert_written_as_rounded<const COUNT: usize>(models: [Decoder; COUNT]) {
        for model in models {
            let mut rounded = model.clone();
            let multiplied = model.layout.linears().map(|at| at.weight).chain([model.layout.head]);
            for i in multiplied.filter(|i| *i != model.layout.embedding) {
                let shape = model.parameters[i].dims();
                let quantized = Quantized::of(&to_host(model.parameters[i].clone()), shape[1]);
                rounded.parameters[i] = constant(&quantized.restored(), shape, &model.device());
            }
            let logits = |model: &Decoder, quantize: bool| {
                let writer = super::Writer::new(model, quantize);
                let slot = super::Slot { index: 0, ids: Vec::new(), place: 0, log_prob: 0.0, rng: stream(0, "x", 0) };
                let mut cache = vec![super::Kept::default(); model.config.layers];
                let mut logits = Vec::new();
                let next = [vec![1, 5, 9, 2]];
                writer.advance(&[slot], &next, &mut cache, 1, &mut super::Buffers::default(), &mut logits);
                logits
            };
            let exact = logits(&model, false);
            let spread = exact.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                - exact.iter().copied().fold(f32::INFINITY, f32::min);
            let allowed = 0.05 * spread;
            // A head that is the embedding is rounded on one side only; all the rest is the same, but for the inputs of
            // products: these have 256 times as many steps as weights.
            if model.layout.head != model.layout.embedding {
                for (own, expected) in logits(&model, true).iter().zip(logits(&rounded, false)) {
                    assert!((own - expected).abs() < allowed / 256.0, "{own}, expected {expected}");
                }
            }
            for (own, exact) in logits(&model, true).iter().zip(&exact) {
                assert!((own - exact).abs() < allowed, "{own}, exactly {exact}");
            }
        }
    }

    /// Expected values: transformers 5.23's `generate`, equal in all rows to a float64 computation (EXPECTED.md there).
    #[test]
    #[ignore = "needs ../shared/data/hf"]
    fn greedy_continuations_are_those_of_transformers() {
        let data = crate::fixtures::shared("hf");
        for family in ["llama", "gpt2", "qwen2", "mistral"] {
            let model = read(&data.join(family), &Device::flex()).unwrap().decoder;
            let text = std::fs::read_to_string(data.join(family).join("pairs.jsonl")).unwrap();
            let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["prompt_ids"])).collect();
            let found = generate(&model, &prompts, &greedy(20), &[], 0, &|_, _| true);
            for (row, found) in rows.iter().zip(&found) {
                assert_eq!(found.ids, ids(&row["greedy_ids"]), "{family} {}", row["id"]);
                assert_eq!(found.finish, Finish::Length);
            }
            // One alone, and with a stop.
            let alone = generate(&model, &prompts[..1], &greedy(20), &[found[0].ids[3]], 0, &|_, _| true);
            let end = found[0].ids.iter().position(|&id| id == found[0].ids[3]).unwrap();
            assert_eq!((alone[0].ids.as_slice(), alone[0].finish), (&found[0].ids[..=end], Finish::Eos));
        }
        let model = read(&data.join("stories260K"), &Device::flex()).unwrap().decoder;
        let golden = crate::fixtures::json(data.join("stories260K/golden.json"));
        let expected = ids(&golden["greedy_ids_200"]);
        let found = generate(&model, &[vec![expected[0]]], &greedy(200), &[], 0, &|_, _| true);
        assert_eq!(found[0].ids, expected[1..]);
    }

    fn small() -> Decoder {
        use crate::lm::config::{ModelConfig, SmallLlama};
        let size = SmallLlama { vocabulary: 30, hidden: 16, layers: 2, heads: 2, context: 40 };
        let mut config = ModelConfig::small_llama(size);
        config.initializer_range = 0.4;
        Decoder::new(config, 3, &Device::flex())
    }

    /// Over several blocks of kept keys, with a window that begins within one, shared keys, and narrow heads.
    #[test]
    fn greedy_tokens_are_the_likeliest_of_the_model_that_is_trained() {
        use crate::lm::config::{ModelConfig, SmallLlama};
        for (window, keys, hidden) in [(None, 4, 48), (Some(7), 4, 48), (Some(40), 2, 80), (None, 1, 24)] {
            let size = SmallLlama { vocabulary: 30, hidden, layers: 2, heads: 4, context: 90 };
            let mut config = ModelConfig::small_llama(size);
            (config.window, config.heads.keys, config.initializer_range) = (window, keys, 0.4);
            let model = Decoder::new(config, 3, &Device::flex());
            let prompts = [vec![3, 1, 4], vec![7], vec![2; 36]];
            let found = generate(&model, &prompts, &greedy(50), &[], 0, &|_, _| true);
            let (mut batch, mut targets) = (Batch::default(), Targets::default());
            for (prompt, completion) in prompts.iter().zip(&found) {
                assert_eq!(completion.ids.len(), 50);
                let sequence = [prompt.as_slice(), &completion.ids].concat();
                let rows: Vec<usize> = batch.push(&sequence).collect();
                targets.push(&sequence, &rows, prompt.len());
            }
            let (_, about) = model.log_probs(model.hidden(&batch, None), &targets, 1.0);
            let likeliest = &to_host(about)[targets.ids.len()..];
            assert!(likeliest.iter().all(|&is| is == 1.0), "window {window:?}, {keys} keys: {likeliest:?}");
        }
    }

    #[test]
    fn what_is_written_depends_neither_on_threads_nor_on_the_others() {
        let model = small();
        let prompts: Vec<Vec<u32>> = (0..70).map(|i| vec![i % 30, (7 * i) % 30]).collect();
        let config = SampleConfig { max_new_tokens: 50, seed: 4, ..SampleConfig::default() };
        let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = |threads| pool(threads).install(|| generate(&model, &prompts, &config, &[0], 0, &|_, _| true));
        let expected = run(1);
        assert_eq!(run(3), expected);
        assert!(expected.iter().any(|completion| completion.finish == Finish::Eos));
        assert!(expected.iter().any(|completion| completion.finish == Finish::Length && completion.ids.len() == 38));
        let one = generate(&model, &prompts[5..6], &config, &[0], 5, &|_, _| true);
        assert_eq!(one[0], expected[5]);
    }

    /// The share of every first token is its probability: χ² over 30 tokens.
    #[test]
    fn tokens_come_with_their_probabilities() {
        let model = small();
        let count = 6000;
        let prompts = vec![vec![3, 1, 4]; count];
        let config = SampleConfig { max_new_tokens: 1, temperature: 1.3, seed: 9, ..SampleConfig::default() };
        let found = generate(&model, &prompts, &config, &[], 0, &|_, _| true);
        let (mut batch, mut targets) = (Batch::default(), Targets::default());
        let mut all = Vec::new();
        for token in 0..30 {
            all.push(vec![3, 1, 4, token]);
        }
        for sequence in &all {
            let rows: Vec<usize> = batch.push(sequence).collect();
            targets.push(sequence, &rows, 3);
        }
        let expected = to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.3).0);
        let statistic: f64 = (0..30)
            .map(|token| {
                let seen = found.iter().filter(|completion| completion.ids == [token]).count() as f64;
                let expected = f64::from(expected[token as usize]).exp() * count as f64;
                (seen - expected).powi(2) / expected
            })
            .sum();
        // The 99.9 % quantile of χ² with 29 degrees of freedom.
        assert!(statistic < 58.3, "{statistic}");
    }

    #[test]
    fn cuts_of_the_distribution_keep_what_they_should() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.5_f32, 0.25, 0.125, 0.125].map(f32::ln);
        let kept = |config: SampleConfig| {
            let mut rng = stream(0, "cuts", 0);
            let mut seen: Vec<u32> = (0..300).map(|_| config.draw(&logits, &mut rng)).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        let plain = SampleConfig::default();
        assert_eq!(kept(plain.clone()), [0, 1, 2, 3]);
        assert_eq!(kept(SampleConfig { top_k: 3, ..plain.clone() }), [0, 1, 2]);
        assert_eq!(kept(SampleConfig { top_p: 0.7, ..plain.clone() }), [0, 1]);
        assert_eq!(kept(SampleConfig { top_p: 0.4, ..plain.clone() }), [0]);
        assert_eq!(kept(SampleConfig { min_p: 0.4, ..plain.clone() }), [0, 1]);
        assert_eq!(kept(SampleConfig { temperature: 0.0, ..plain }), [0]);
    }

    /// A mixture of a model with itself is the model; of two it is between them, and its log-probabilities are those of
    /// the mixed logits.
    #[test]
    fn models_that_write_together_write_from_the_mixed_logits() {
        use crate::lm::config::{ModelConfig, SmallLlama};
        let size = SmallLlama { vocabulary: 30, hidden: 16, layers: 2, heads: 2, context: 40 };
        let model = |seed| {
            let mut model = Decoder::new(ModelConfig::small_llama(size), seed, &Device::flex());
            // Fresh models find all tokens about equally likely.
            model.parameters.iter_mut().for_each(|tensor| *tensor = tensor.clone() * 4.0);
            model
        };
        let (a, b) = (model(1), model(2));
        let prompts: Vec<Vec<u32>> = (0..40).map(|i| vec![i % 30, 3, 7]).collect();
        let config = SampleConfig { max_new_tokens: 20, seed: 5, ..SampleConfig::default() };
        let alone = generate(&a, &prompts, &config, &[0], 0, &|_, _| true);
        let halves = generate_mixed(&[(&a, 0.5), (&a, 0.5)], &prompts, &config, &[0], 0);
        // Halves of floats are exact.
        assert!(halves.iter().zip(&alone).all(|((half, _), one)| half == one));
        let all = generate_mixed(&[(&a, 1.0), (&b, 0.0)], &prompts, &config, &[0], 0);
        assert!(all.iter().zip(&alone).all(|((mixed, _), one)| mixed == one));

        let mixed = generate_mixed(&[(&a, 0.3), (&b, 0.7)], &prompts[..5], &config, &[0], 0);
        assert!(mixed.iter().zip(&alone).any(|((mixed, _), one)| mixed != one));
        for ((completion, found), prompt) in mixed.iter().zip(&prompts) {
            let ids = [prompt.as_slice(), &completion.ids].concat();
            // Every token of the vocabulary after every prefix, from which the mixture follows.
            let mut expected = 0.0;
            for end in prompt.len()..ids.len() {
                let of = |model: &Decoder| -> Vec<f64> {
                    let (mut batch, mut targets) = (Batch::default(), Targets::default());
                    for token in 0..30 {
                        let sequence = [&ids[..end], &[token]].concat();
                        let rows: Vec<usize> = batch.push(&sequence).collect();
                        targets.push(&sequence, &rows, end);
                    }
                    let found = to_host(model.log_probs(model.hidden(&batch, None), &targets, 1.0).0);
                    found.into_iter().map(f64::from).collect()
                };
                let sums: Vec<f64> = of(&a).iter().zip(of(&b)).map(|(a, b)| 0.3 * a + 0.7 * b).collect();
                let total: f64 = sums.iter().map(|sum| sum.exp()).sum();
                expected += sums[ids[end] as usize] - total.ln();
            }
            assert!((found - expected).abs() < 1e-3, "{found}, expected {expected}");
        }
    }
}
