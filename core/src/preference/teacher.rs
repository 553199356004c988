//! Simulated teachers after B-Pref (Lee et al. 2021, arXiv 2111.03026). A new one is a line of [`TEACHERS`].

use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::label::Label;
use super::likelihood::sigmoid;
use crate::random::Rng;
use crate::range::OutOfRange;
use crate::table::{Line, Table};

/// A teacher who reads the true reward, with known flaws. All combinations are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Rationality β of a noisy teacher; 0 means never wrong by noise (B-Pref writes ∞ as −1).
    pub beta: f64,
    /// Measure β in units of the spread of segment returns: with an absolute β the same teacher is random on one task
    /// and perfect on another (imitation#821).
    pub beta_relative: bool,
    /// γ: a myopic teacher discounts the past of a clip.
    pub gamma: f64,
    /// ε_mistake: share of answers that are flipped.
    pub mistake: f64,
    /// ε_skip: skips pairs in which neither clip earns more than this share of what an average clip earns.
    pub skip: f64,
    /// ε_equal: calls pairs equal that differ by less than this share.
    pub equal: f64,
    /// Behave as B-Pref's code does: thresholds multiplied by ε twice after the first session, exact ties go to the
    /// first, β absolute, thresholds from the signed mean return.
    pub bpref_compat: bool,
}

/// B-Pref's six teachers, with its parameters.
pub const TEACHERS: &[&Line<Teacher>] = &[
    &Line { name: "oracle", summary: "always right", item: ORACLE },
    &Line { name: "mistake", summary: "flips one answer in ten", item: Teacher { mistake: 0.1, ..ORACLE } },
    &Line {
        name: "noisy",
        summary: "errs the more often, the less two clips differ (Bradley-Terry)",
        item: Teacher { beta: 1.0, ..ORACLE },
    },
    &Line { name: "myopic", summary: "discounts the beginning of a clip", item: Teacher { gamma: 0.9, ..ORACLE } },
    &Line {
        name: "skip",
        summary: "skips pairs of which both clips are far worse than usual",
        item: Teacher { skip: 0.1, ..ORACLE },
    },
    &Line { name: "equal", summary: "calls clips equal that differ little", item: Teacher { equal: 0.1, ..ORACLE } },
];

const ORACLE: Teacher =
    Teacher { beta: 0.0, beta_relative: true, gamma: 1.0, mistake: 0.0, skip: 0.0, equal: 0.0, bpref_compat: false };

/// What a teacher's thresholds are relative to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeacherContext {
    /// Steps of a segment, H.
    pub segment_len: usize,
    /// Steps of an episode, T.
    pub episode_len: usize,
    /// Mean true return of recent episodes, R̄; `None` before an episode has ended.
    pub mean_episode_return: Option<f64>,
    /// Standard deviation of true segment returns.
    pub segment_return_std: f64,
    /// Label sessions before this one.
    pub sessions_before: usize,
}

impl Table for Teacher {
    const KIND: &'static str = "teacher";
    const LINES: &'static [&'static Line<Self>] = TEACHERS;
}

impl Default for Teacher {
    /// The oracle.
    fn default() -> Self {
        ORACLE
    }
}

impl Teacher {
    /// Checks the parameters.
    ///
    /// # Errors
    /// Naming the first one out of range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let check = OutOfRange::check;
        // A larger β times a difference of returns may be infinite.
        check("beta", self.beta, (0.0..=1e9).contains(&self.beta), "between 0 (never wrong by noise) and 1e9")?;
        check("gamma", self.gamma, (0.0..=1.0).contains(&self.gamma), "between 0 and 1")?;
        check("mistake", self.mistake, (0.0..=1.0).contains(&self.mistake), "between 0 and 1")?;
        check("skip", self.skip, (0.0..=10.0).contains(&self.skip), "between 0 and 10")?;
        check("equal", self.equal, (0.0..=10.0).contains(&self.equal), "between 0 and 10")
    }

    /// Answers one question, in the order of operations of B-Pref's `get_label`.
    ///
    /// # Shapes
    /// - `first`, `second`: `[steps]`, true rewards
    #[must_use]
    pub fn answer(&self, first: &[f64], second: &[f64], context: &TeacherContext, rng: &mut Rng) -> Label {
        // Both draws are always made, so that one parameter never shifts the randomness of another.
        let (noise, slip): (f64, f64) = (rng.random(), rng.random());
        let (sum1, sum2): (f64, f64) = (first.iter().sum(), second.iter().sum());
        // 1. Skip.
        if self.skip > 0.0 && self.skip_threshold(context).is_some_and(|threshold| sum1.max(sum2) <= threshold) {
            return Label::Skip;
        }
        // 2. Equal, decided on undiscounted returns; it overrides what follows.
        if self.equal > 0.0 && self.equal_threshold(context).is_some_and(|most| (sum1 - sum2).abs() < most) {
            return Label::Equal;
        }
        // 3. Myopic returns Σ γ^{H−1−j} r_j.
        let myopic = |rewards: &[f64]| rewards.iter().fold(0.0, |sum, reward| sum * self.gamma + reward);
        let difference = myopic(first) - myopic(second);
        // 4. The better one, or a Bernoulli draw.
        let label = if self.beta > 0.0 {
            let prefers_first = noise < sigmoid(self.effective_beta(context) * difference);
            if prefers_first { Label::First } else { Label::Second }
        } else if difference == 0.0 && !self.bpref_compat {
            // Breaking exact ties to one side would teach a side, not a reward.
            Label::Equal
        } else if difference >= 0.0 {
            Label::First
        } else {
            Label::Second
        };
        // 5. Mistake.
        if slip < self.mistake { label.swapped() } else { label }
    }

    fn effective_beta(&self, context: &TeacherContext) -> f64 {
        let spread = context.segment_return_std;
        if self.beta_relative && !self.bpref_compat && spread > 0.0 { self.beta / spread } else { self.beta }
    }

    /// Skip below δ = (H / T)·R̄·ε, which is 1 − ε of an average clip's magnitude below an average clip. Written that
    /// way it also holds for negative returns, where the reference formula would skip all but the best.
    ///
    /// Before an episode has ended there is no R̄, and nothing is skipped or called equal: a teacher who does not know
    /// yet what is usual judges every pair. B-Pref's code does the same: both of its thresholds are 0 until the first
    /// mean return sets them, and a threshold of 0 skips nothing.
    fn skip_threshold(&self, context: &TeacherContext) -> Option<f64> {
        let average = average_clip(context)?;
        Some(match self.bpref_compat {
            true => average * self.compat_factor(self.skip, context),
            false => average - (1.0 - self.skip) * average.abs(),
        })
    }

    /// Equal within δ = (H / T)·|R̄|·ε; the reference formula lacks the magnitude, so that for negative returns it
    /// calls no two clips equal.
    fn equal_threshold(&self, context: &TeacherContext) -> Option<f64> {
        let average = average_clip(context)?;
        Some(match self.bpref_compat {
            true => average * self.compat_factor(self.equal, context),
            false => average.abs() * self.equal,
        })
    }

    /// B-Pref's training scripts multiply by ε once more in every session but the first.
    fn compat_factor(&self, epsilon: f64, context: &TeacherContext) -> f64 {
        if context.sessions_before > 0 { epsilon * epsilon } else { epsilon }
    }
}

/// What a clip of average return earns, (H / T)·R̄; `None` before R̄ is known.
fn average_clip(context: &TeacherContext) -> Option<f64> {
    let share = context.segment_len as f64 / context.episode_len.max(1) as f64;
    context.mean_episode_return.map(|mean| share * mean)
}

#[cfg(test)]
mod tests {
    use super::{Teacher, TeacherContext};
    use crate::preference::Label;
    use crate::random::stream;
    use crate::table::find;

    const CONTEXT: TeacherContext = TeacherContext {
        segment_len: 10,
        episode_len: 100,
        mean_episode_return: Some(500.0),
        segment_return_std: 4.0,
        sessions_before: 0,
    };

    fn named(name: &str) -> Teacher {
        find::<Teacher>(name).unwrap().item
    }

    fn answer(teacher: &Teacher, first: &[f64], second: &[f64], context: &TeacherContext) -> Label {
        teacher.answer(first, second, context, &mut stream(0, "test", 0))
    }

    fn share(teacher: &Teacher, first: &[f64], second: &[f64], label: Label) -> f64 {
        let draws = 20_000;
        let hits = (0..draws).filter(|&i| teacher.answer(first, second, &CONTEXT, &mut stream(1, "test", i)) == label);
        hits.count() as f64 / draws as f64
    }

    #[test]
    fn the_oracle_is_right_and_calls_exact_ties_equal_unless_it_copies_bpref() {
        let oracle = Teacher::default();
        assert_eq!(answer(&oracle, &[1.0, 0.5], &[1.0, 0.4], &CONTEXT), Label::First);
        assert_eq!(answer(&oracle, &[1.0], &[1.1], &CONTEXT), Label::Second);
        assert_eq!(answer(&oracle, &[1.0, 0.0], &[0.0, 1.0], &CONTEXT), Label::Equal);
        let compat = Teacher { bpref_compat: true, ..oracle };
        assert_eq!(answer(&compat, &[1.0, 0.0], &[0.0, 1.0], &CONTEXT), Label::First);
    }

    #[test]
    fn the_mistaken_teacher_flips_a_tenth() {
        let teacher = named("mistake");
        let flipped = share(&teacher, &[2.0], &[1.0], Label::Second);
        assert!((flipped - 0.1).abs() < 0.01, "{flipped}");
    }

    #[test]
    fn the_noisy_teacher_follows_bradley_terry_in_units_of_the_spread() {
        let teacher = named("noisy");
        // Returns differ by one spread of 4: σ(1); with an absolute β: σ(4).
        assert!((share(&teacher, &[4.0], &[0.0], Label::First) - 0.7311).abs() < 0.012);
        let absolute = Teacher { beta_relative: false, ..teacher };
        assert!((share(&absolute, &[4.0], &[0.0], Label::First) - 0.9820).abs() < 0.006);
    }

    #[test]
    fn the_myopic_teacher_remembers_the_end() {
        let (early, late) =
            ([3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        assert_eq!(answer(&Teacher::default(), &early, &late, &CONTEXT), Label::First);
        assert_eq!(answer(&named("myopic"), &early, &late, &CONTEXT), Label::Second);
    }

    #[test]
    fn skip_and_equal_use_a_tenth_of_an_average_clip() {
        // An average clip earns 50; thresholds are 5.
        let skip = named("skip");
        assert_eq!(answer(&skip, &[4.9], &[5.0], &CONTEXT), Label::Skip);
        assert_eq!(answer(&skip, &[4.9], &[5.1], &CONTEXT), Label::Second);
        let equal = named("equal");
        assert_eq!(answer(&equal, &[10.0], &[14.9], &CONTEXT), Label::Equal);
        assert_eq!(answer(&equal, &[10.0], &[15.0], &CONTEXT), Label::Second);
        // Negative returns: an average clip earns −50.
        let negative = TeacherContext { mean_episode_return: Some(-500.0), ..CONTEXT };
        assert_eq!(answer(&equal, &[-10.0], &[-14.9], &negative), Label::Equal);
        assert_eq!(answer(&skip, &[-90.0], &[-60.0], &negative), Label::Second);
        assert_eq!(answer(&skip, &[-96.0], &[-95.0], &negative), Label::Skip);
    }

    /// Issue 28, B3: with R̄ taken as 0, the skip teacher skipped every pair with negative returns, and `equal` never tied.
    #[test]
    fn before_an_episode_has_ended_no_pair_is_skipped_or_equal_by_a_mean_that_is_not_known() {
        let unknown = TeacherContext { mean_episode_return: None, ..CONTEXT };
        for compat in [false, true] {
            for name in ["skip", "equal"] {
                let teacher = Teacher { bpref_compat: compat, ..named(name) };
                for (first, second) in [(-90.0, -60.0), (4.9, 5.0), (-1e-9, 0.0), (0.0, 1e-9)] {
                    assert_eq!(answer(&teacher, &[first], &[second], &unknown), Label::Second, "{name}");
                }
            }
        }
        // A mean return of zero is known: whoever earns no more than it is skipped.
        let zero = TeacherContext { mean_episode_return: Some(0.0), ..CONTEXT };
        assert_eq!(answer(&named("skip"), &[-1.0], &[-2.0], &zero), Label::Skip);
    }

    #[test]
    fn bpref_compat_squares_epsilon_after_the_first_session() {
        let equal = Teacher { bpref_compat: true, ..named("equal") };
        let later = TeacherContext { sessions_before: 1, ..CONTEXT };
        assert_eq!(answer(&equal, &[10.0], &[14.9], &CONTEXT), Label::Equal);
        assert_eq!(answer(&equal, &[10.0], &[14.9], &later), Label::Second);
        assert_eq!(answer(&equal, &[10.0], &[10.4], &later), Label::Equal);
    }
}
