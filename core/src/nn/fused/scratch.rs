//! Memory that is used again and again: the kernel gives fresh memory of this size page by page, each zeroed, which
//! took a quarter of the time of PPO's updates.

use std::cell::RefCell;

/// Memory that is written before it is read.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) Vec<f32>);

/// Pieces kept for each thread; a decoder's backward pass frees about as many for each of its layers as it asks for.
const SCRATCH_KEPT: usize = 64;

/// Numbers kept for each thread: 64 MiB.
const NUMBERS_KEPT: usize = 16 << 20;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// At least `len` numbers, of any value.
    pub(super) fn new(len: usize) -> Self {
        Self(take(len).unwrap_or_else(|| vec![0.0; len]))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

/// `len` zeros, to be given away; their last user may [`give_back`] the memory.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    let Some(mut piece) = take(len) else { return vec![0.0; len] };
    piece.truncate(len);
    piece.fill(0.0);
    piece
}

/// `len` numbers of any value that will all be written, to be given away.
pub(super) fn unwritten(len: usize) -> Vec<f32> {
    let mut piece = take(len).unwrap_or_else(|| vec![0.0; len]);
    piece.truncate(len);
    piece
}

/// Keeps memory for the next caller that needs a piece of this size.
pub(super) fn give_back(piece: Vec<f32>) {
    // The thread may be ending, and its free pieces with it.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        free.push(piece);
        while free.len() > SCRATCH_KEPT || free.iter().map(Vec::len).sum::<usize>() > NUMBERS_KEPT {
            free.remove(0);
        }
    });
}

fn take(len: usize) -> Option<Vec<f32>> {
    FREE.with_borrow_mut(|free| {
        let fits = |piece: &Vec<f32>| (len..=4 * len + 1024).contains(&piece.len());
        // The last one given back is the likeliest to be in a cache.
        free.iter().rposition(fits).map(|i| free.remove(i))
    })
}
