//! What the operations must know besides the numbers: kinds of normalisation, heads, and who attends to whom.

use std::ops::Range;

/// How [`super::norm`] normalises a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Which of the two.
    pub kind: NormKind,
    /// Added to the variance, or to the mean square.
    pub epsilon: f32,
}

/// What is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// (x − mean) / √(variance + ε)
    Layer,
    /// x / √(mean square + ε)
    RootMeanSquare,
}

/// Who attends to whom in a packed batch; the same for all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionLayout {
    /// The sequences. Every row of the batch is the own row of exactly one.
    pub sequences: Vec<Sequence>,
    /// Number and width of heads.
    pub heads: Heads,
    /// The scores' factor, 1/√width by default.
    pub scale: f32,
    /// A token sees itself and the window − 1 tokens before it.
    pub window: Option<usize>,
    /// Rotary positions of every row.
    pub rotation: Option<Rotation>,
}

/// One sequence of a packed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Rows before its own that it begins with: own rows of another sequence that has no prefix. May be empty.
    pub prefix: Range<usize>,
    /// Its own rows.
    pub rows: Range<usize>,
}

/// Heads of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and values: a divisor of `queries`.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
}

/// Rotary positions: the first half of a head is the real part, the second the imaginary part of numbers that are
/// turned, as in Hugging Face's Llama.
///
/// # Shapes
/// - both: `[rows, width / 2]`
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Cosine of each row's angles.
    pub cos: Vec<f32>,
    /// Sine of each row's angles.
    pub sin: Vec<f32>,
}

impl Heads {
    /// Columns of queries.
    #[must_use]
    pub fn query_columns(&self) -> usize {
        self.queries * self.width
    }

    /// Columns of keys, and of values.
    #[must_use]
    pub fn key_columns(&self) -> usize {
        self.keys * self.width
    }

    /// Columns of queries, keys and values together.
    #[must_use]
    pub fn joint(&self) -> usize {
        self.query_columns() + 2 * self.key_columns()
    }
}

impl Sequence {
    /// Tokens, with the prefix.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }
}

impl AttentionLayout {
    /// Positions that the token at `position` of its sequence sees.
    #[must_use]
    pub fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}
