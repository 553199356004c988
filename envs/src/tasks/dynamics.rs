//! What all tasks of this crate share: counting steps, saving and loading.

use crate::env::{Action, Env, EnvSpec, LARGEST_STATE, Rng, StateError, Step};
use crate::scene::Scene;

/// The dynamics of one task over `N` state variables; everything is a function of the state.
pub(crate) trait Dynamics<const N: usize>: Send {
    fn spec() -> &'static EnvSpec;
    /// Draws an initial state.
    fn reset(rng: &mut Rng) -> [f64; N];
    /// Advances the state; returns reward, whether the task ended, and the action to draw (two numbers in −1..1).
    fn step(state: &mut [f64; N], action: Action<'_>) -> (f64, bool, [f64; 2]);
    fn observe(state: &[f64; N], observation: &mut [f32]);
    fn draw(state: &[f64; N], action: [f64; 2], scene: &mut Scene);
}

/// Numbers saved after the physical state: elapsed steps and the two numbers of the last action.
pub(crate) const SAVED_EXTRA: usize = 3;

/// An environment made of dynamics.
pub(crate) struct Task<D, const N: usize> {
    state: [f64; N],
    elapsed: usize,
    last_action: [f64; 2],
    dynamics: std::marker::PhantomData<D>,
}

impl<D: Dynamics<N>, const N: usize> Task<D, N> {
    pub(crate) fn new() -> Self {
        Self { state: [0.0; N], elapsed: 0, last_action: [0.0; 2], dynamics: std::marker::PhantomData }
    }
}

impl<D: Dynamics<N>, const N: usize> Env for Task<D, N> {
    fn spec(&self) -> &'static EnvSpec {
        D::spec()
    }

    fn reset(&mut self, rng: &mut Rng, observation: &mut [f32]) {
        self.state = D::reset(rng);
        self.elapsed = 0;
        self.last_action = [0.0; 2];
        self.observe(observation);
    }

    fn step(&mut self, action: Action<'_>, observation: &mut [f32]) -> Step {
        let (reward, terminated, shown) = D::step(&mut self.state, action);
        self.last_action = shown;
        self.elapsed += 1;
        self.observe(observation);
        Step { reward, terminated, truncated: self.elapsed >= D::spec().horizon }
    }

    fn observe(&self, observation: &mut [f32]) {
        D::observe(&self.state, observation);
    }

    fn save(&self, state: &mut [f64]) {
        state[..N].copy_from_slice(&self.state);
        state[N] = self.elapsed as f64;
        state[N + 1..].copy_from_slice(&self.last_action);
    }

    fn load(&mut self, state: &[f64]) -> Result<(), StateError> {
        let spec = D::spec();
        if state.len() != N && state.len() != N + SAVED_EXTRA {
            let (id, names, saved_len, found) = (spec.id, spec.state, spec.saved_len, state.len());
            return Err(StateError::Length { id, names, saved_len, found });
        }
        if let Some(index) = state.iter().position(|value| !value.is_finite()) {
            return Err(StateError::NotFinite { id: spec.id, index, value: state[index] });
        }
        if let Some(index) = state[..N].iter().position(|value| value.abs() > LARGEST_STATE) {
            return Err(StateError::TooLarge { id: spec.id, name: spec.state[index], value: state[index] });
        }
        self.state.copy_from_slice(&state[..N]);
        let rest = |i: usize| state.get(N + i).copied().unwrap_or(0.0);
        self.elapsed = rest(0).max(0.0) as usize;
        self.last_action = [rest(1), rest(2)];
        Ok(())
    }

    fn draw(&self, scene: &mut Scene) {
        D::draw(&self.state, self.last_action, scene);
    }
}

/// The discrete action, clamped to the last of `n`; a continuous one is rounded.
pub(crate) fn discrete(action: Action<'_>, n: usize) -> usize {
    match action {
        Action::Discrete(index) => index.min(n - 1),
        Action::Continuous(values) => values.first().map_or(0, |v| v.round().max(0.0) as usize).min(n - 1),
    }
}

/// Element `i` of a continuous action; NaN and missing elements count as zero.
pub(crate) fn continuous(action: Action<'_>, i: usize) -> f32 {
    match action {
        Action::Discrete(index) => index as f32,
        Action::Continuous(values) => values.get(i).copied().filter(|v| !v.is_nan()).unwrap_or(0.0),
    }
}

/// Wraps an angle to [−π, π).
pub(crate) fn wrap(angle: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    (angle + PI).rem_euclid(TAU) - PI
}

/// Wraps an angle to [−π, π] as Gymnasium does, by taking full turns away, which keeps +π.
///
/// Gymnasium takes one turn after the other. So does this for the few that a step can make, to the bit; what is farther
/// away is brought near first, since taking 2π from 1e18 changes nothing, and a loop would never end.
pub(crate) fn wrap_by_turns(angle: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    /// More than a step of any task makes.
    const TURNS: usize = 16;
    let mut wrapped = angle;
    for _ in 0..TURNS {
        match () {
            () if wrapped > PI => wrapped -= TAU,
            () if wrapped < -PI => wrapped += TAU,
            // Also where it is NaN.
            () => return wrapped,
        }
    }
    // The remainder is exact, and in (−2π, 2π).
    let near = angle % TAU;
    match () {
        () if near > PI => near - TAU,
        () if near < -PI => near + TAU,
        () => near,
    }
}

/// One classical Runge-Kutta step of `dt` seconds.
pub(crate) fn rk4<const N: usize>(state: &[f64; N], dt: f64, derivative: impl Fn(&[f64; N]) -> [f64; N]) -> [f64; N] {
    let moved = |k: &[f64; N], h: f64| std::array::from_fn(|i| state[i] + h * k[i]);
    let k1 = derivative(state);
    let k2 = derivative(&moved(&k1, dt / 2.0));
    let k3 = derivative(&moved(&k2, dt / 2.0));
    let k4 = derivative(&moved(&k3, dt));
    std::array::from_fn(|i| state[i] + dt / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]))
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{PI, TAU};

    use rand::{RngExt as _, SeedableRng as _};

    use super::wrap_by_turns;
    use crate::env::Rng;

    /// Gymnasium's `wrap`, line by line.
    fn gymnasium(mut angle: f64) -> f64 {
        let diff = PI - -PI;
        while angle > PI {
            angle -= diff;
        }
        while angle < -PI {
            angle += diff;
        }
        angle
    }

    #[test]
    fn wrapping_is_gymnasiums_to_the_bit_for_all_that_a_step_can_make() {
        let mut rng = Rng::seed_from_u64(0);
        let mut angles: Vec<f64> = (0..200_000).map(|_| rng.random_range(-15.0 * TAU..15.0 * TAU)).collect();
        for turns in -15..=15 {
            let edge = f64::from(turns) * PI;
            angles.extend([edge, edge.next_up(), edge.next_down(), -0.0]);
        }
        for angle in angles {
            assert_eq!(wrap_by_turns(angle).to_bits(), gymnasium(angle).to_bits(), "{angle}");
        }
    }

    #[test]
    fn wrapping_ends_and_stays_in_range_however_far_away_it_begins() {
        for magnitude in [101.0, 1e3, 1e6, 1e15, 1e18, 1e300, f64::MAX] {
            for angle in [magnitude, -magnitude] {
                let wrapped = wrap_by_turns(angle);
                assert!((-PI..=PI).contains(&wrapped), "{angle}: {wrapped}");
            }
        }
        // The same direction, as far as the angle itself knows it.
        for turns in [100.0, 1e4] {
            for rest in [-3.0, -0.5, 0.0, 1.0, 3.1] {
                assert!((wrap_by_turns(turns * TAU + rest) - rest).abs() < 1e-9, "{turns} turns and {rest}");
            }
        }
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(wrap_by_turns(wrong).is_nan());
        }
    }
}
