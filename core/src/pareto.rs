//! Several objectives at once: fronts, and how good a front is. Used by agents and by language models.
//!
//! Every objective is to be as large as possible. A point is its objectives' values in order; all points of a call have
//! as many. Points with a value that is no number are on no front and add nothing.

/// Whether `a` is at least as good as `b` in every objective, and better in one.
#[must_use]
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    covers(a, b) && a.iter().zip(b).any(|(a, b)| a > b)
}

/// Indices of the points that none of the others dominates, in their order. Of equal points all are on the front.
#[must_use]
pub fn front(points: &[Vec<f64>]) -> Vec<usize> {
    let numbers: Vec<usize> = (0..points.len()).filter(|&i| is_number(&points[i])).collect();
    let dominated = |i: usize| numbers.iter().any(|&other| dominates(&points[other], &points[i]));
    numbers.iter().copied().filter(|&i| !dominated(i)).collect()
}

/// Volume of what the points cover above `reference`: of all that is at least as good as the reference and that some
/// point is at least as good as (Zitzler & Thiele 1998). Exact for any number of objectives, by slices along the last
/// (While et al. 2006, "A faster algorithm for calculating hypervolume"); for n points of d > 1 objectives it takes
/// O(n^(d − 1) log n) steps.
///
/// # Panics
/// When a point has another number of objectives than the reference.
#[must_use]
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    assert!(points.iter().all(|point| point.len() == reference.len()), "all points have the reference's objectives");
    let adds = |point: &&Vec<f64>| is_number(point) && point.iter().zip(reference).all(|(value, least)| value > least);
    let mut points: Vec<&[f64]> = points.iter().filter(adds).map(Vec::as_slice).collect();
    volume(&mut points, reference)
}

/// Inverted generational distance plus of a set of points: how far, on average, the points of a front that is known or
/// better lie beyond it; 0 where the set reaches all of it (Ishibuchi et al. 2015, "Modified distance calculation in
/// generational distance and inverted generational distance", eq. 15, for objectives to be maximised). Distances are
/// Euclidean, so objectives of different scales have to be scaled before. `None` when either is empty.
#[must_use]
pub fn igd_plus(points: &[Vec<f64>], known: &[Vec<f64>]) -> Option<f64> {
    let beyond = |goal: &Vec<f64>, point: &Vec<f64>| {
        goal.iter().zip(point).map(|(goal, value)| (goal - value).max(0.0).powi(2)).sum::<f64>().sqrt()
    };
    let points: Vec<&Vec<f64>> = points.iter().filter(|point| is_number(point)).collect();
    if points.is_empty() || known.is_empty() {
        return None;
    }
    let nearest = |goal: &Vec<f64>| points.iter().map(|point| beyond(goal, point)).fold(f64::INFINITY, f64::min);
    Some(known.iter().map(nearest).sum::<f64>() / known.len() as f64)
}

/// Of two objectives: the front of all that at least `count` of the sets reach, from the best of the first objective to
/// the best of the second (the empirical attainment function, Grunert da Fonseca et al. 2001). With half of the sets it
/// is the median front over seeds.
///
/// # Panics
/// When a point has other than two objectives.
#[must_use]
pub fn attainment_front(sets: &[Vec<Vec<f64>>], count: usize) -> Vec<[f64; 2]> {
    let numbers = |set: &Vec<Vec<f64>>| -> Vec<[f64; 2]> {
        let two = |point: &Vec<f64>| <[f64; 2]>::try_from(point.as_slice()).expect("points have two objectives");
        set.iter().filter(|point| is_number(point)).map(two).collect()
    };
    let sets: Vec<Vec<[f64; 2]>> = sets.iter().map(numbers).collect();
    let mut firsts: Vec<f64> = sets.iter().flatten().map(|point| point[0]).collect();
    firsts.sort_by(|a, b| b.total_cmp(a));
    firsts.dedup();
    let mut reached: Vec<[f64; 2]> = Vec::new();
    for first in firsts {
        // The most of the second objective that each set has beside this much of the first; then the `count`-th most.
        let most = |set: &Vec<[f64; 2]>| {
            set.iter().filter(|point| point[0] >= first).map(|point| point[1]).fold(f64::NEG_INFINITY, f64::max)
        };
        let mut seconds: Vec<f64> = sets.iter().map(most).collect();
        seconds.sort_by(|a, b| b.total_cmp(a));
        let Some(&second) = count.checked_sub(1).and_then(|nth| seconds.get(nth)) else { return Vec::new() };
        if second > reached.last().map_or(f64::NEG_INFINITY, |last| last[1]) {
            reached.push([first, second]);
        }
    }
    reached
}

/// How far a mix lies above the chord between the ends it is mixed of, in each objective: its values minus the ends'
/// values in the same proportions. Nowhere negative is what linear mode connectivity claims (Ramé et al. 2023, arXiv
/// 2306.04488, hypothesis 1).
///
/// # Shapes
/// - `ends`: `[weights.len()][objectives]`; `mix` and what is returned: `[objectives]`
#[must_use]
pub fn above_chord(ends: &[Vec<f64>], weights: &[f64], mix: &[f64]) -> Vec<f64> {
    let chord = |objective: usize| ends.iter().zip(weights).map(|(end, weight)| weight * end[objective]).sum::<f64>();
    mix.iter().enumerate().map(|(objective, value)| value - chord(objective)).collect()
}

fn covers(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a >= b)
}

fn is_number(point: &[f64]) -> bool {
    point.iter().all(|value| value.is_finite())
}

/// The volume that points cover which are all above the reference in the objectives that it has.
fn volume(points: &mut [&[f64]], reference: &[f64]) -> f64 {
    let last = match reference.len() {
        0 => return 0.0,
        1 => return points.iter().map(|point| point[0] - reference[0]).fold(0.0, f64::max),
        2 => {
            points.sort_by(|a, b| b[0].total_cmp(&a[0]));
            let (mut area, mut covered) = (0.0, reference[1]);
            for point in points.iter() {
                if point[1] > covered {
                    area += (point[0] - reference[0]) * (point[1] - covered);
                    covered = point[1];
                }
            }
            return area;
        }
        count => count - 1,
    };
    // Slices between one value of the last objective and the next below it: all points from there up cover them.
    points.sort_by(|a, b| b[last].total_cmp(&a[last]));
    let ends: Vec<f64> = points.iter().map(|point| point[last]).collect();
    let mut sum = 0.0;
    let mut slice = Vec::with_capacity(points.len());
    for i in 0..points.len() {
        let height = ends[i] - ends.get(i + 1).copied().unwrap_or(reference[last]);
        if height > 0.0 {
            slice.clear();
            slice.extend_from_slice(&points[..=i]);
            sum += height * volume(&mut slice, &reference[..last]);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;
    use serde_json::Value;

    use super::{above_chord, attainment_front, covers, dominates, front, hypervolume, igd_plus};
    use crate::fixtures::{json, own, shared};
    use crate::random::stream;

    fn values(point: &Value, names: [&str; 2]) -> Vec<f64> {
        names.map(|name| point[name].as_f64().unwrap()).to_vec()
    }

    #[test]
    fn dominance_is_strict_and_equal_points_are_both_on_the_front() {
        assert!(dominates(&[1.0, 2.0], &[1.0, 1.0]) && !dominates(&[1.0, 2.0], &[1.0, 2.0]));
        assert!(!dominates(&[2.0, 0.0], &[1.0, 1.0]));
        let points: Vec<Vec<f64>> =
            [[1.0, 3.0], [2.0, 2.0], [1.0, 2.9], [f64::NAN, 9.0], [2.0, 2.0], [3.0, f64::INFINITY], [0.0, 4.0]]
                .map(|point| point.to_vec())
                .to_vec();
        assert_eq!(front(&points), [0, 1, 4, 6]);
    }

    #[test]
    fn volumes_of_two_and_three_objectives_are_those_counted_by_hand() {
        let of = |points: &[&[f64]], reference: &[f64]| {
            hypervolume(&points.iter().map(|point| point.to_vec()).collect::<Vec<_>>(), reference)
        };
        assert_eq!(of(&[&[1.0, 3.0], &[2.0, 2.0], &[3.0, 1.0], &[1.5, 1.5]], &[0.0, 0.0]), 6.0);
        assert_eq!(of(&[&[1.0, 3.0], &[4.0, -1.0], &[f64::NAN, 9.0]], &[0.0, 0.0]), 3.0);
        assert_eq!(of(&[], &[0.0, 0.0]), 0.0);
        // Three bars of length 3 through one unit cube.
        let bars: [&[f64]; 3] = [&[3.0, 1.0, 1.0], &[1.0, 3.0, 1.0], &[1.0, 1.0, 3.0]];
        assert_eq!(of(&bars, &[0.0, 0.0, 0.0]), 7.0);
        assert_eq!(of(&[&[5.0]], &[2.0]), 3.0);
    }

    /// Another exact algorithm: inclusion and exclusion over all subsets of the points.
    #[test]
    fn volumes_of_up_to_six_objectives_are_those_by_inclusion_and_exclusion() {
        let mut rng = stream(0, "hypervolume", 0);
        for objectives in 1..=6 {
            for count in [1, 2, 5, 9] {
                let points: Vec<Vec<f64>> = (0..count)
                    .map(|_| (0..objectives).map(|_| (rng.random_range(-1.0..4.0_f64) * 4.0).round() / 4.0).collect())
                    .collect();
                let mut expected = 0.0;
                for subset in 1..1_u32 << count {
                    let side = |objective: usize| {
                        let own = (0..count).filter(|i| subset >> i & 1 == 1).map(|i| points[i][objective]);
                        own.fold(f64::INFINITY, f64::min).max(0.0)
                    };
                    let sign = if subset.count_ones() % 2 == 1 { 1.0 } else { -1.0 };
                    expected += sign * (0..objectives).map(side).product::<f64>();
                }
                let found = hypervolume(&points, &vec![0.0; objectives]);
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{objectives} objectives, {points:?}: {found}, not {expected}"
                );
            }
        }
    }

    /// Rewarded Soups' own points, with the volumes that the reference page states.
    #[test]
    #[ignore = "needs ../shared/data/rewardedsoups_fronts"]
    fn volumes_of_published_fronts_are_those_stated() {
        let golden = &json(own("golden/losses_merge_hv.json"))["hypervolume"];
        let [text, walk] =
            ["textgen", "locomotion"].map(|name| json(shared(&format!("rewardedsoups_fronts/{name}.json"))));
        let close = |found: f64, expected: &Value| {
            let expected = expected.as_f64().unwrap();
            assert!((found - expected).abs() < 1e-9 * expected, "{found}, expected {expected}");
        };
        let all = |points: &Value, names: [&str; 2]| -> Vec<Vec<f64>> {
            points.as_array().unwrap().iter().map(|point| values(point, names)).collect()
        };

        let names = ["R1", "R2"];
        let (soup, mut both) = (all(&text["wa_d"], names), all(&text["wa_d"], names));
        let (morl, start) = (values(&text["morl"], names), values(&text["init"], names));
        both.push(morl.clone());
        let expected = &golden["rs_textgen_vs_init"];
        close(hypervolume(&soup, &start), &expected["rs"]);
        close(hypervolume(&[morl], &start), &expected["morl_mu0_5"]);
        close(hypervolume(&both, &start), &expected["rs_plus_morl"]);
        assert_eq!(front(&soup).len(), 12);
        let ends = [soup[0].clone(), soup[20].clone()];
        let above = |i: usize| {
            let share = i as f64 / 20.0;
            above_chord(&ends, &[1.0 - share, share], &soup[i])
        };
        // All 19 between the ends lie above the chord: in its normal's direction, as the two objectives are opposed.
        let normal = [ends[0][1] - ends[1][1], ends[1][0] - ends[0][0]];
        assert!((1..20).all(|i| above(i).iter().zip(normal).map(|(above, n)| above * n).sum::<f64>() > 0.0));

        let names = ["humanoid_super_risk_averse", "humanoid_super_risk_taker"];
        let start = values(&walk["init"][0], names);
        let soup = all(&walk["wa"], names);
        let last = |run: usize| {
            let stages = walk[&format!("morl_{run}")].as_array().unwrap();
            values(&stages[stages.len() - 1], names)
        };
        let expected = &golden["rs_humanoid_vs_init"];
        close(hypervolume(&soup, &start), &expected["rs"]);
        close(hypervolume(&[soup[0].clone(), soup[20].clone()], &start), &expected["rs_two_ends"]);
        close(hypervolume(&(0..=10).map(last).collect::<Vec<_>>(), &start), &expected["morl_final"]);
        close(hypervolume(&[last(2)], &start), &expected["morl_run2_final"]);
        close(hypervolume(&[last(0), last(10)], &start), &expected["morl_two_ends"]);
        assert_eq!(front(&soup).len(), 17);
        assert!(soup.iter().all(|point| dominates(&last(2), point)));
    }

    #[test]
    fn distances_to_a_front_count_only_what_is_missing() {
        let known = [vec![0.0, 4.0], vec![4.0, 0.0]];
        // Reaches the first and more; lacks 3 of the second's first objective.
        assert_eq!(igd_plus(&[vec![1.0, 5.0]], &known), Some(1.5));
        assert_eq!(igd_plus(&known, &known), Some(0.0));
        // Lacks (1, 1) of the first, and (5, 0) of the second; the nearest of both points counts.
        assert_eq!(igd_plus(&[vec![-1.0, 3.0]], &known), Some(0.5 * (2.0_f64.sqrt() + 5.0)));
        assert_eq!(igd_plus(&[vec![f64::NAN, 3.0]], &known), None);
    }

    #[test]
    fn what_most_seeds_reach_is_between_what_one_and_what_all_reach() {
        let sets = [
            vec![vec![1.0, 3.0], vec![3.0, 1.0]],
            vec![vec![2.0, 2.0], vec![f64::NAN, 9.0]],
            vec![vec![1.5, 2.5], vec![2.5, 0.5]],
        ];
        assert_eq!(attainment_front(&sets, 1), [[3.0, 1.0], [2.0, 2.0], [1.5, 2.5], [1.0, 3.0]]);
        assert_eq!(attainment_front(&sets, 2), [[2.5, 0.5], [2.0, 1.0], [1.5, 2.0], [1.0, 2.5]]);
        assert_eq!(attainment_front(&sets, 3), [[2.0, 0.5], [1.5, 1.0], [1.0, 2.0]]);
        assert!(attainment_front(&sets, 4).is_empty() && attainment_front(&sets, 0).is_empty());
        let reaching = |goal: &[f64]| sets.iter().filter(|set| set.iter().any(|point| covers(point, goal))).count();
        for count in 1..=3 {
            for point in attainment_front(&sets, count) {
                assert!(reaching(&point) >= count);
                let further = [point[0] + 1e-6, point[1] + 1e-6];
                assert!(reaching(&further) < count, "{count}: {further:?}");
            }
        }
    }
}
