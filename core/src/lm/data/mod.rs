//! Text data: rows read from JSONL and text files, encoded into token ids under named conventions.
//!
//! Rows are checked before anything is trained on them. What is left out or cut is counted, and the user is told.

mod encode;
mod read;
mod row;
#[cfg(test)]
mod tests;

pub use self::encode::{
    Boundary, Conventions, EncodeReport, Encoded, EncodedCompletion, EncodedPair, EncodedPrompt, Eos, Packed,
    Truncation, encode_completions, encode_pairs, encode_prompts, pack,
};
pub use self::read::{DataError, ReadConfig, Rows, Skipped, order, read, read_all};
pub use self::row::{
    CandidateRow, CompletionRow, Content, Document, Origin, PreferenceRow, PromptRow, RowKind, RowProblem,
};
