//! How different statements are from each other, and what a filter takes away from that: distinct n-grams, distances,
//! clusters, and a map.
//!
//! Statements are vectors of their words, weighted by how rare each word is (TF-IDF), of length 1.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{DMatrix, SymmetricEigen};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::random::{Rng, stream};

/// A sparse vector of length 1, or of length 0 where a text has no words: places, ascending, and values.
pub type Vector = Vec<(usize, f64)>;

/// How different the texts of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Texts.
    pub texts: usize,
    /// Share of different ones among all words, pairs of words, and triples (Li et al. 2016, arXiv 1510.03055).
    pub distinct: [f64; 3],
    /// Mean over all pairs of 1 − the cosine of their vectors; none for a single text.
    pub distance: Option<f64>,
    /// Clusters with a text or more.
    pub clusters: usize,
    /// e to the entropy of the clusters' shares: as many clusters of equal size are as diverse.
    pub effective_clusters: f64,
}

/// Two sets side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Of a sample of all texts, as large as the other set.
    pub before: Diversity,
    /// Of those that were kept.
    pub after: Diversity,
    /// Clusters that both sets were divided into: √(n / 2) of the n texts of both, 50 at most (Mardia et al. 1979).
    pub clusters: usize,
    /// Shares of the variance that the map shows along and up.
    pub explained: [f64; 2],
    /// Where the texts of the first set lie, then those of the second.
    pub map: Vec<[f64; 2]>,
}

/// Most clusters.
const MOST_CLUSTERS: usize = 50;
/// Passes of k-means at most; it ends when nothing moves.
const CLUSTER_PASSES: usize = 50;
/// Directions that are followed to find the two of most variance: more of them converge sooner.
const DIRECTIONS: usize = 8;
/// Multiplications by the covariance. What is not told apart by then differs so little that any map of it is as good.
const MULTIPLICATIONS: usize = 60;

/// The words of a text: what stands between anything that is no letter or digit, in small letters; apostrophes are left
/// out, so that "don’t" is "dont".
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !matches!(c, '\'' | '’')).collect();
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Share of different ones among all runs of `n` words; 0 where there are none.
#[must_use]
pub fn distinct(texts: &[Vec<String>], n: usize) -> f64 {
    let runs = || texts.iter().flat_map(|words| words.windows(n));
    let different: BTreeSet<&[String]> = runs().collect();
    different.len() as f64 / runs().count().max(1) as f64
}

/// TF-IDF vectors: counts times ln((1 + n) / (1 + texts with the word)) + 1, divided by their length, as scikit-learn
/// has them. Also the number of different words.
#[must_use]
pub fn vectors(texts: &[Vec<String>]) -> (Vec<Vector>, usize) {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for words in texts {
        let own: BTreeSet<&str> = words.iter().map(String::as_str).collect();
        own.into_iter().for_each(|word| *found.entry(word).or_default() += 1);
    }
    let n = texts.len() as f64;
    let weights: BTreeMap<&str, (usize, f64)> = found
        .iter()
        .enumerate()
        .map(|(place, (&word, &texts))| (word, (place, ((1.0 + n) / (1.0 + texts as f64)).ln() + 1.0)))
        .collect();
    let vector = |words: &Vec<String>| {
        let mut values: BTreeMap<usize, f64> = BTreeMap::new();
        for (place, weight) in words.iter().filter_map(|word| weights.get(word.as_str())) {
            *values.entry(*place).or_default() += weight;
        }
        let length = values.values().map(|value| value * value).sum::<f64>().sqrt();
        values.into_iter().map(|(place, value)| (place, value / length)).collect()
    };
    (texts.iter().map(vector).collect(), found.len())
}

/// Mean over all pairs of 1 − cosine; none for fewer than two vectors.
///
/// The sum over pairs is that of the vectors' sum, |Σ v|² = Σ |v|² + 2 Σ v·w, so that it is exact for any number.
#[must_use]
pub fn mean_distance(vectors: &[Vector], terms: usize) -> Option<f64> {
    let n = vectors.len() as f64;
    let mut sum = vec![0.0; terms];
    vectors.iter().flatten().for_each(|&(place, value)| sum[place] += value);
    let all: f64 = sum.iter().map(|value| value * value).sum();
    let own: f64 = vectors.iter().flatten().map(|(_, value)| value * value).sum();
    (vectors.len() > 1).then(|| 1.0 - (all - own) / (n * (n - 1.0)))
}

/// The cluster of every vector: spherical k-means (Dhillon and Modha 2001), begun as k-means++ is (Arthur and
/// Vassilvitskii 2007).
#[must_use]
pub fn clusters(vectors: &[Vector], terms: usize, k: usize, rng: &mut Rng) -> Vec<usize> {
    let mut centres = first_centres(vectors, terms, k, rng);
    let mut of = vec![usize::MAX; vectors.len()];
    for _ in 0..CLUSTER_PASSES {
        let nearest: Vec<usize> = vectors.iter().map(|vector| nearest(vector, &centres).0).collect();
        if nearest == of {
            break;
        }
        of = nearest;
        for (i, centre) in centres.iter_mut().enumerate() {
            let mut mean = vec![0.0; terms];
            let own = vectors.iter().zip(&of).filter(|(_, cluster)| **cluster == i);
            own.flat_map(|(vector, _)| vector).for_each(|&(place, value)| mean[place] += value);
            let length = mean.iter().map(|value| value * value).sum::<f64>().sqrt();
            // A cluster that lost all its texts stays where it was.
            if length > 0.0 {
                mean.iter_mut().for_each(|value| *value /= length);
                *centre = mean;
            }
        }
    }
    of
}

/// Places in the plane of most variance (principal components), and the shares of the variance along and up. The
/// largest place along each axis is positive.
#[must_use]
pub fn map(vectors: &[Vector], terms: usize, rng: &mut Rng) -> (Vec<[f64; 2]>, [f64; 2]) {
    let n = vectors.len();
    if n == 0 || terms == 0 {
        return (vec![[0.0; 2]; n], [0.0; 2]);
    }
    let mut mean = vec![0.0; terms];
    vectors.iter().flatten().for_each(|&(place, value)| mean[place] += value / n as f64);
    let width = DIRECTIONS.min(terms);
    let mut directions: Vec<Vec<f64>> =
        (0..width).map(|_| (0..terms).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    orthonormalize(&mut directions);
    for _ in 0..MULTIPLICATIONS {
        for direction in &mut directions {
            *direction = scatter(vectors, &mean, &places(vectors, &mean, direction));
        }
        orthonormalize(&mut directions);
    }
    // Within these directions the axes are found exactly.
    let along: Vec<Vec<f64>> = directions.iter().map(|direction| places(vectors, &mean, direction)).collect();
    let products = DMatrix::from_fn(width, width, |i, j| dot(&along[i], &along[j]));
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(products);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]));
    let squares: f64 = vectors.iter().flatten().map(|(_, value)| value * value).sum();
    let total = squares - n as f64 * dot(&mean, &mean);
    let (mut points, mut explained) = (vec![[0.0; 2]; n], [0.0; 2]);
    for (axis, &i) in order.iter().take(2).enumerate() {
        let mut own = vec![0.0; n];
        for (direction, places) in along.iter().enumerate() {
            let share = eigenvectors[(direction, i)];
            own.iter_mut().zip(places).for_each(|(sum, place)| *sum += share * place);
        }
        let largest =
            own.iter().copied().fold(0.0, |most: f64, place| if place.abs() > most.abs() { place } else { most });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        points.iter_mut().zip(own).for_each(|(point, place)| point[axis] = sign * place);
        explained[axis] = if total > 0.0 { (eigenvalues[i] / total).clamp(0.0, 1.0) } else { 0.0 };
    }
    (points, explained)
}

/// Compares two sets of texts with the same words' weights, clusters and map.
#[must_use]
pub fn compare(before: &[&str], after: &[&str], seed: u64) -> Comparison {
    let texts: Vec<Vec<String>> = before.iter().chain(after).map(|text| words(text)).collect();
    let (vectors, terms) = vectors(&texts);
    let k = ((vectors.len() as f64 / 2.0).sqrt().round() as usize).clamp(1, MOST_CLUSTERS);
    let of = clusters(&vectors, terms, k, &mut stream(seed, "diversity-clusters", 0));
    let (map, explained) = map(&vectors, terms, &mut stream(seed, "diversity-map", 0));
    let part = |range: std::ops::Range<usize>| {
        let sizes = of[range.clone()].iter().fold(BTreeMap::new(), |mut sizes: BTreeMap<usize, usize>, &cluster| {
            *sizes.entry(cluster).or_default() += 1;
            sizes
        });
        let shares = sizes.values().map(|&size| size as f64 / range.len() as f64);
        Diversity {
            texts: range.len(),
            distinct: [1, 2, 3].map(|n| distinct(&texts[range.clone()], n)),
            distance: mean_distance(&vectors[range.clone()], terms),
            clusters: sizes.len(),
            effective_clusters: if sizes.is_empty() { 0.0 } else { (-shares.map(|p| p * p.ln()).sum::<f64>()).exp() },
        }
    };
    let (before, after) = (part(0..before.len()), part(before.len()..texts.len()));
    Comparison { before, after, clusters: k, explained, map }
}

/// The first centre is any text, the others are drawn with their distance to the nearest one.
fn first_centres(vectors: &[Vector], terms: usize, k: usize, rng: &mut Rng) -> Vec<Vec<f64>> {
    let dense = |vector: &Vector| {
        let mut values = vec![0.0; terms];
        vector.iter().for_each(|&(place, value)| values[place] = value);
        values
    };
    let mut centres: Vec<Vec<f64>> = Vec::with_capacity(k);
    let mut distances = vec![1.0; vectors.len()];
    while centres.len() < k {
        let total: f64 = distances.iter().sum();
        // As many different texts as centres: another one would be a copy.
        if total <= f64::EPSILON * vectors.len() as f64 {
            break;
        }
        let mut left = rng.random_range(0.0..total);
        let drawn = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        let Some(drawn) = drawn.or_else(|| distances.iter().rposition(|&distance| distance > 0.0)) else { break };
        let centre = dense(&vectors[drawn]);
        for (distance, vector) in distances.iter_mut().zip(vectors) {
            *distance = distance.min(1.0 - sparse_dot(vector, &centre)).max(0.0);
        }
        distances[drawn] = 0.0;
        centres.push(centre);
    }
    centres
}

/// The nearest centre, the first of equals, and the cosine.
fn nearest(vector: &Vector, centres: &[Vec<f64>]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, centre) in centres.iter().enumerate() {
        let cosine = sparse_dot(vector, centre);
        if cosine > best.1 {
            best = (i, cosine);
        }
    }
    best
}

/// Where every vector lies along a direction, from the mean.
fn places(vectors: &[Vector], mean: &[f64], direction: &[f64]) -> Vec<f64> {
    let middle = dot(mean, direction);
    vectors.iter().map(|vector| sparse_dot(vector, direction) - middle).collect()
}

/// Σ place · (vector − mean).
fn scatter(vectors: &[Vector], mean: &[f64], places: &[f64]) -> Vec<f64> {
    let total: f64 = places.iter().sum();
    let mut sum: Vec<f64> = mean.iter().map(|value| -total * value).collect();
    for (vector, along) in vectors.iter().zip(places) {
        vector.iter().for_each(|&(place, value)| sum[place] += along * value);
    }
    sum
}

/// Gram and Schmidt, in order; what depends on those before becomes 0.
fn orthonormalize(all: &mut [Vec<f64>]) {
    for i in 0..all.len() {
        let (before, own) = all.split_at_mut(i);
        let own = &mut own[0];
        let length = dot(own, own).sqrt();
        // Twice, against rounding.
        for _ in 0..2 {
            for other in before.iter() {
                let share = dot(other, own);
                own.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let left = dot(own, own).sqrt();
        let scale = if left > 1e-12 * length { 1.0 / left } else { 0.0 };
        own.iter_mut().for_each(|value| *value *= scale);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sparse_dot(vector: &Vector, dense: &[f64]) -> f64 {
    vector.iter().map(|&(place, value)| value * dense[place]).sum()
}

#[cfg(test)]
mod tests {
    use super::{clusters, compare, distinct, map, mean_distance, vectors, words};
    use crate::random::stream;

    fn split(texts: &[&str]) -> Vec<Vec<String>> {
        texts.iter().map(|text| words(text)).collect()
    }

    #[test]
    fn words_and_distinct_runs_of_them() {
        assert_eq!(words("I don’t LIKE \"dogs\", don't-like 3!"), ["i", "dont", "like", "dogs", "dont", "like", "3"]);
        let texts = split(&["a b a b", "a b c", "d"]);
        // Words a b c d of 8; pairs ab ba bc of 5; triples aba bab abc of 3.
        assert_eq!([1, 2, 3].map(|n| distinct(&texts, n)), [4.0 / 8.0, 3.0 / 5.0, 1.0]);
        assert_eq!(distinct(&[], 1), 0.0);
    }

    #[test]
    fn vectors_are_tf_idf_and_distances_are_means_over_pairs() {
        let (found, terms) = vectors(&split(&["cat dog", "dog dog", "", "bird"]));
        assert_eq!(terms, 3);
        // idf of cat and bird: ln(5/2) + 1 = 1.916291, of dog: ln(5/3) + 1 = 1.510826; bird, cat, dog in order.
        let length = (1.916_290_731_874_155_f64.powi(2) + 1.510_825_623_765_990_7_f64.powi(2)).sqrt();
        assert_eq!(found[0].iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
        assert!((found[0][0].1 - 1.916_290_731_874_155 / length).abs() < 1e-12);
        assert!((found[0][1].1 - 1.510_825_623_765_990_7 / length).abs() < 1e-12);
        assert_eq!(found[1], [(2, 1.0)]);
        assert_eq!(found[2], []);
        // Of the six pairs only the first two texts share a word.
        let expected = 1.0 - 1.510_825_623_765_990_7 / length / 6.0;
        assert!((mean_distance(&found, terms).unwrap() - expected).abs() < 1e-12);
        assert_eq!(mean_distance(&found[..1], terms), None);
        // Pair by pair.
        let texts = split(&["the cat sat", "a cat ran", "the dog sat down", "cats and dogs", "sat sat the"]);
        let (found, terms) = vectors(&texts);
        let dense = |i: usize| {
            let mut all = vec![0.0; terms];
            found[i].iter().for_each(|&(place, value)| all[place] = value);
            all
        };
        let mut sum = 0.0;
        for i in 0..5 {
            for j in 0..i {
                sum += 1.0 - dense(i).iter().zip(dense(j)).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        assert!((mean_distance(&found, terms).unwrap() - sum / 10.0).abs() < 1e-12);
    }

    #[test]
    fn the_map_shows_the_directions_of_most_variance() {
        // Around (5, 1, 2) in three dimensions: ±3 along the first, ±1 along the third.
        let points = [[8.0, 1.0, 2.0], [2.0, 1.0, 2.0], [5.0, 1.0, 3.0], [5.0, 1.0, 1.0]];
        let sparse: Vec<_> =
            points.iter().map(|point: &[f64; 3]| point.iter().copied().enumerate().collect()).collect();
        let (found, explained) = map(&sparse, 3, &mut stream(0, "test", 0));
        assert!((explained[0] - 0.9).abs() < 1e-9 && (explained[1] - 0.1).abs() < 1e-9, "{explained:?}");
        // The sign of an axis is free where both ends are as far.
        assert!((found[0][0].abs() - 3.0).abs() < 1e-9 && (found[0][0] + found[1][0]).abs() < 1e-9, "{found:?}");
        assert!((found[2][1].abs() - 1.0).abs() < 1e-9 && (found[2][1] + found[3][1]).abs() < 1e-9, "{found:?}");
        assert!(found[0][1].abs() < 1e-9 && found[2][0].abs() < 1e-9);
        let same = vec![vec![(0, 1.0)]; 3];
        assert_eq!(map(&same, 1, &mut stream(0, "test", 0)), (vec![[0.0; 2]; 3], [0.0; 2]));
        assert_eq!(map(&[vec![], vec![]], 0, &mut stream(0, "test", 0)).0, [[0.0; 2]; 2]);
    }

    #[test]
    fn clusters_are_of_texts_that_share_words() {
        let mut texts = Vec::new();
        for i in 0..30 {
            let kinds = ["dogs bark loudly", "taxes fund schools", "rivers reach oceans"];
            texts.push(format!("{} {}", kinds[i % 3], ["today", "often"][i / 3 % 2]));
        }
        let texts: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
        let (found, terms) = vectors(&texts);
        let of = clusters(&found, terms, 3, &mut stream(0, "test", 0));
        for i in 0..30 {
            assert_eq!(of[i], of[i % 3], "{of:?}");
        }
        assert_eq!(of[..3].iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        // More clusters than different texts.
        let same = vec![vec![(0, 1.0)]; 5];
        assert_eq!(clusters(&same, 1, 3, &mut stream(0, "test", 0)), [0; 5]);
        assert_eq!(clusters(&[vec![], vec![]], 0, 2, &mut stream(0, "test", 0)).len(), 2);
    }

    #[test]
    fn a_set_of_one_kind_is_less_diverse_than_one_of_many() {
        let many: Vec<String> = (0..40).map(|i| format!("thing{i} is liked by person{i} in town{i}")).collect();
        let few: Vec<String> = (0..40).map(|i| format!("I like dogs very much {}", i % 4)).collect();
        let [many, few] = [&many, &few].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
        let found = compare(&many, &few, 3);
        assert_eq!(found, compare(&many, &few, 3));
        assert_eq!((found.before.texts, found.after.texts, found.clusters, found.map.len()), (40, 40, 6, 80));
        assert!(found.before.distinct[0] > 2.0 * found.after.distinct[0]);
        assert!(found.before.distance > found.after.distance);
        assert!(found.after.effective_clusters <= found.after.clusters as f64 + 1e-9);
        assert!(found.after.clusters <= 6 && found.before.clusters <= 6);
    }
}
