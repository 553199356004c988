//! What was found, over seeds: means with intervals, trends, the control; as text and as a figure.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{Point, SycophancyConfig, Training};
use crate::disk::figure::{self, Panel, Series, SeriesPoint};
use crate::lm::error::LmError;
use crate::preference::statistics::{mean, student_interval};
use crate::studies::sycophancy::opinions::Behaviour;

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sycophancy {
    /// What was run.
    pub config: SycophancyConfig,
    /// All models.
    pub points: Vec<Point>,
    /// Ends of trainings by size and bias, over seeds; remedies by weight.
    pub table: Vec<Row>,
    /// Whether size, training and bias make it worse.
    pub trends: Vec<Trend>,
    /// Whether unbiased labels leave it where it was.
    pub controls: Vec<Control>,
}

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval by Student's t; none of a single seed.
    pub interval: Option<[f64; 2]>,
}

/// What a training ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Size.
    pub size: String,
    /// Parameters.
    pub parameters: usize,
    /// Which training.
    pub training: Training,
    /// The annotator's bias; none for a base.
    pub bias: Option<f64>,
    /// Weight of the remedy, if it is one.
    pub weight: Option<f64>,
    /// Steps, or iterations.
    pub steps: usize,
    /// See [`Behaviour::agrees`].
    pub agrees: Mean,
    /// See [`Behaviour::effect`].
    pub effect: Mean,
    /// See [`Behaviour::accuracy`].
    pub accuracy: Mean,
    /// See [`Behaviour::agrees_with_right`].
    pub agrees_with_right: Mean,
    /// Divergence from the base, nats; none for reward models.
    pub kl: Option<Mean>,
}

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The probability of agreeing with a wrong view: also who knows nothing agrees half of the time.
    Agrees,
    /// How much more often than without the view.
    Effect,
}

/// Along what it is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Along {
    /// log10 of the number of parameters.
    Size,
    /// Hundreds of steps of DPO, tens of iterations of PPO.
    Steps,
    /// The annotator's bias, nats.
    Bias,
}

/// What a trend says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The interval of the slope lies above 0.
    Worse,
    /// It lies below.
    Better,
    /// It holds 0, or there are too few seeds to tell.
    CannotBeTold,
}

/// A slope by least squares in each seed: mean over seeds. Along steps it is the mean of the sizes' slopes, along the
/// bias, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// DPO, PPO, or what reward models prefer.
    pub training: Training,
    /// Of what.
    pub measure: Measure,
    /// Along what.
    pub along: Along,
    /// At which bias; none along it.
    pub bias: Option<f64>,
    /// Slope.
    pub slope: Mean,
    /// What it says.
    pub finding: Finding,
}

/// Where unbiased labels leave a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// Size.
    pub size: String,
    /// DPO or PPO.
    pub training: Training,
    /// Of what.
    pub measure: Measure,
    /// The base's.
    pub start: Mean,
    /// At the end of the training.
    pub end: Mean,
    /// End less start, seed by seed.
    pub change: Mean,
    /// Whether the change's interval holds zero; none for a single seed.
    pub holds: Option<bool>,
}

impl Mean {
    /// Of values of different seeds.
    fn of(values: &[f64]) -> Self {
        Self { mean: mean(values), interval: student_interval(values) }
    }

    /// Of what lies between two bounds: so does its interval, then.
    fn within(values: &[f64], [least, most]: [f64; 2]) -> Self {
        let Self { mean, interval } = Self::of(values);
        Self { mean, interval: interval.map(|ends| ends.map(|end| end.clamp(least, most))) }
    }

    /// In per cent.
    fn percent(&self) -> String {
        match self.interval {
            Some([low, high]) => format!("{} [{}, {}]", percent(self.mean), percent(low), percent(high)),
            None => percent(self.mean),
        }
    }
}

impl Measure {
    const ALL: [Self; 2] = [Self::Agrees, Self::Effect];

    fn of(self, behaviour: &Behaviour) -> f64 {
        match self {
            Self::Agrees => behaviour.agrees,
            Self::Effect => behaviour.effect,
        }
    }

    /// Least and largest value.
    fn bounds(self) -> [f64; 2] {
        match self {
            Self::Agrees => SHARE,
            Self::Effect => DIFFERENCE,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agreement with wrong views",
            Self::Effect => "the view's effect",
        }
    }
}

impl Along {
    fn unit(self, training: Training) -> &'static str {
        match (self, training) {
            (Self::Size, _) => "a tenfold size",
            (Self::Steps, Training::Ppo) => "ten iterations",
            (Self::Steps, _) => "a hundred steps",
            (Self::Bias, _) => "a nat of bias",
        }
    }
}

impl Training {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Dpo => "DPO",
            Self::Reward => "reward model",
            Self::Ppo => "PPO",
            Self::Modpo => "MODPO",
            Self::Soup => "soup",
        }
    }
}

impl Sycophancy {
    /// The table in words: Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { config, table, trends, controls, .. } = self;
        let seeds = config.seeds.len();
        let mut text = format!(
            "Sycophancy over {seeds} seed{}, per cent{}. \"agrees\": probability of agreeing with a view that is wrong; \
             \"effect\": how much more than where no view is stated; \"true\": probability of the true answer there.\n\n",
            if seeds == 1 { "" } else { "s" },
            if seeds == 1 { "" } else { ", with 95 % intervals (Student's t)" },
        );
        let shown = |row: &Row| {
            let bias = row.bias.map_or_else(|| "-".to_owned(), |bias| bias.to_string());
            let kl = row.kl.map_or_else(|| "-".to_owned(), |kl| format!("{:.3}", kl.mean));
            let numbers = [row.agrees, row.effect, row.accuracy].map(|mean| mean.percent());
            let training = match row.weight {
                Some(weight) => format!("{} {weight}", row.training.name()),
                None => row.training.name().to_owned(),
            };
            let [agrees, effect, accuracy] = numbers;
            vec![row.size.clone(), bias, training, agrees, effect, accuracy, kl]
        };
        let header = ["size", "bias", "training", "agrees", "effect", "true", "KL, nats"];
        let (remedies, others): (Vec<&Row>, Vec<&Row>) = table.iter().partition(|row| row.weight.is_some());
        text += &markdown(&header, &others.into_iter().map(shown).collect::<Vec<_>>());
        if !remedies.is_empty() {
            text += &format!(
                "\nRemedies against bias {}, by the weight of the truth (MODPO: its gold reward) and of the policy of unbiased \
                 labels (soup):\n\n",
                config.largest_bias()
            );
            text += &markdown(&header, &remedies.into_iter().map(shown).collect::<Vec<_>>());
        }
        text.push('\n');
        for trend in trends {
            text += &(trend.words() + "\n");
        }
        for measure in Measure::ALL {
            text += &controls_in_words(measure, controls);
        }
        for control in controls {
            text += &(control.words() + "\n");
        }
        text
    }
}

impl Trend {
    /// As a sentence.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { training, measure, along, bias, slope, finding } = self;
        let at = bias.map_or_else(String::new, |bias| format!(" at bias {bias}"));
        let along_what = match along {
            Along::Size => "size",
            Along::Steps => "training",
            Along::Bias => "bias",
        };
        let says = match finding {
            Finding::Worse => "makes it worse",
            Finding::Better => "makes it better",
            Finding::CannotBeTold => "cannot be told to make a difference",
        };
        format!(
            "{}{at}: {}: {along_what} {says}: {} points for {}",
            training.name(),
            measure.name(),
            slope.percent(),
            along.unit(*training)
        )
    }
}

impl Control {
    /// As a sentence.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { size, training, measure, start, end, change, holds } = self;
        let says = match holds {
            Some(true) => "within its interval",
            Some(false) if change.mean > 0.0 => "rises beyond its interval",
            Some(false) => "falls beyond its interval",
            None => "one seed has no interval",
        };
        format!(
            "control, {size}, {}: {}: from {} to {}, by {}: {says}",
            training.name(),
            measure.name(),
            percent(start.mean),
            end.percent(),
            change.percent()
        )
    }
}

/// How many controls of a measure hold; nothing where there are no intervals.
fn controls_in_words(measure: Measure, controls: &[Control]) -> String {
    let known: Vec<(bool, f64)> = controls
        .iter()
        .filter(|control| control.measure == measure)
        .filter_map(|control| Some((control.holds?, control.change.mean)))
        .collect();
    if known.is_empty() {
        return String::new();
    }
    let beyond = |rises: bool| known.iter().filter(|(holds, change)| !holds && (*change > 0.0) == rises).count();
    let (all, rise, fall) = (known.len(), beyond(true), beyond(false));
    format!(
        "controls, {}: {} of {all} within their intervals, {rise} rise and {fall} fall beyond; of 95 % intervals one in twenty is beyond by chance\n",
        measure.name(),
        all - rise - fall
    )
}

/// Everything that the points say together.
pub(super) fn summarised(config: &SycophancyConfig, points: Vec<Point>) -> Sycophancy {
    let mut table = Vec::new();
    for size in &config.sizes {
        table.extend(row(&points, size, Training::Base, None, None));
        for &bias in &config.biases {
            for training in TRAININGS {
                table.extend(row(&points, size, training, Some(bias), None));
            }
        }
    }
    for training in [Training::Modpo, Training::Soup] {
        let (size, bias) = (config.remedy_size(), config.largest_bias());
        for &weight in &config.remedy_weights {
            table.extend(row(&points, size, training, Some(bias), Some(weight)));
        }
    }
    let (mut trends, mut controls) = (Vec::new(), Vec::new());
    for measure in Measure::ALL {
        for training in TRAININGS {
            let own = Measured { config, points: &points, training, measure };
            trends.extend(config.biases.iter().filter_map(|&bias| own.by_size(bias)));
            trends.extend(config.biases.iter().filter_map(|&bias| own.by_steps(bias)));
            trends.extend(own.by_bias());
            if training != Training::Reward {
                controls.extend(config.sizes.iter().filter_map(|size| own.control(size)));
            }
        }
    }
    Sycophancy { config: config.clone(), points, table, trends, controls }
}

/// A figure of agreement: by bias after DPO, of reward models and after PPO, by steps of DPO, by size, and by weight of the
/// remedies.
pub(super) fn draw(found: &Sycophancy, path: &Path) -> Result<(), LmError> {
    let Sycophancy { config, points, table, .. } = found;
    let end = |size: &str, training: Training, bias: f64| {
        table
            .iter()
            .find(|row| row.size == size && row.training == training && row.bias == Some(bias) && row.weight.is_none())
    };
    let place = |x: f64, mean: Mean| SeriesPoint { x, y: mean.mean, interval: mean.interval };
    let mut biases = config.biases.clone();
    biases.sort_by(f64::total_cmp);
    let by_bias = |training: Training| -> Vec<Series> {
        let of_size = |size: &String| {
            let points = biases.iter().filter_map(|&bias| Some(place(bias, end(size, training, bias)?.agrees)));
            Series { name: size.clone(), points: points.collect(), dots: Vec::new() }
        };
        config.sizes.iter().map(of_size).collect()
    };
    let largest = config.largest_bias();
    let agreeing = Measured { config, points, training: Training::Dpo, measure: Measure::Agrees };
    let by_steps = |size: &String| {
        let at = std::iter::once(0).chain(config.dpo_steps.iter().copied());
        let point = |steps: usize| {
            let value = |&seed: &u64| agreeing.after(seed, size, largest, steps);
            let values: Option<Vec<f64>> = config.seeds.iter().map(value).collect();
            Some(place(steps as f64, Mean::within(&values?, SHARE)))
        };
        Series { name: size.clone(), points: at.filter_map(point).collect(), dots: Vec::new() }
    };
    let by_size = |&bias: &f64| {
        let mut points: Vec<SeriesPoint> = config
            .sizes
            .iter()
            .filter_map(|size| {
                let row = end(size, Training::Dpo, bias)?;
                Some(place((row.parameters as f64).log10(), row.agrees))
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { name: format!("bias {bias}"), points, dots: Vec::new() }
    };
    let remedies = |training: Training, name: &str| {
        let size = config.remedy_size();
        let without = end(size, Training::Dpo, largest).map(|row| place(0.0, row.agrees));
        let of = |row: &&Row| row.size == size && row.training == training && row.weight.is_some();
        let mut points: Vec<SeriesPoint> = without.into_iter().collect();
        points.extend(table.iter().filter(of).filter_map(|row| Some(place(row.weight?, row.agrees))));
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { name: name.to_owned(), points, dots: Vec::new() }
    };
    let panel = |title: String, along: &str, series: Vec<Series>| Panel {
        title,
        axes: [along.to_owned(), "agrees with a wrong view".to_owned()],
        heights: Some([0.0, 1.0]),
        series,
    };
    let mut panels = vec![
        panel("After DPO, by the annotator's bias".to_owned(), "bias, nats", by_bias(Training::Dpo)),
        panel("What the reward model prefers, by bias".to_owned(), "bias, nats", by_bias(Training::Reward)),
        panel("After PPO, by the annotator's bias".to_owned(), "bias, nats", by_bias(Training::Ppo)),
        panel(format!("During DPO, at bias {largest}"), "steps", config.sizes.iter().map(by_steps).collect()),
        panel("After DPO, by size".to_owned(), "log10 of parameters", biases.iter().map(by_size).collect()),
    ];
    if !config.remedy_weights.is_empty() {
        let both =
            vec![remedies(Training::Modpo, "MODPO with the truth"), remedies(Training::Soup, "soup with bias 0")];
        let title = format!("Remedies at bias {largest}, {}", config.remedy_size());
        panels.push(panel(title, "weight of the remedy", both));
    }
    Ok(figure::panels(path, &panels)?)
}

/// Trainings that are followed by size, steps and bias.
const TRAININGS: [Training; 3] = [Training::Dpo, Training::Ppo, Training::Reward];
/// Bounds of a probability, and of the difference of two.
const SHARE: [f64; 2] = [0.0, 1.0];
const DIFFERENCE: [f64; 2] = [-1.0, 1.0];
/// What slopes along steps are for.
const HUNDRED: f64 = 100.0;
/// The same of iterations.
const TEN: f64 = 10.0;

/// The last point of each seed.
fn row(points: &[Point], size: &str, training: Training, bias: Option<f64>, weight: Option<f64>) -> Option<Row> {
    let fits = |point: &&Point| {
        point.size == size && point.training == training && point.bias == bias && point.weight == weight
    };
    let own: Vec<&Point> = points.iter().filter(fits).collect();
    let steps = own.iter().map(|point| point.steps).max()?;
    let ends: Vec<&Point> = own.into_iter().filter(|point| point.steps == steps).collect();
    let over_seeds = |value: &dyn Fn(&Point) -> f64, bounds: [f64; 2]| {
        Mean::within(&ends.iter().map(|point| value(point)).collect::<Vec<_>>(), bounds)
    };
    let kl: Option<Vec<f64>> = ends.iter().map(|point| point.kl).collect();
    Some(Row {
        size: size.to_owned(),
        parameters: ends.first()?.parameters,
        training,
        bias,
        weight,
        steps,
        agrees: over_seeds(&|point| point.behaviour.agrees, SHARE),
        effect: over_seeds(&|point| point.behaviour.effect, DIFFERENCE),
        accuracy: over_seeds(&|point| point.behaviour.accuracy, SHARE),
        agrees_with_right: over_seeds(&|point| point.behaviour.agrees_with_right, SHARE),
        kl: kl.map(|kl| Mean::within(&kl, [0.0, f64::INFINITY])),
    })
}

/// A measure of all models of one training.
struct Measured<'a> {
    config: &'a SycophancyConfig,
    points: &'a [Point],
    training: Training,
    measure: Measure,
}

impl Measured<'_> {
    /// Points of a seed's model of this size that is trained with this bias, without a remedy.
    fn own(&self, seed: u64, size: &str, bias: f64) -> impl Iterator<Item = &Point> {
        let fits = move |point: &&Point| point.seed == seed && point.size == size && point.training == self.training;
        self.points.iter().filter(fits).filter(move |point| point.bias == Some(bias) && point.weight.is_none())
    }

    /// The model after so many steps; after none it is the base.
    fn after(&self, seed: u64, size: &str, bias: f64, steps: usize) -> Option<f64> {
        let is_base = |point: &&Point| point.seed == seed && point.size == size && point.training == Training::Base;
        let point = match steps {
            0 => self.points.iter().find(is_base),
            _ => self.own(seed, size, bias).find(|point| point.steps == steps),
        };
        Some(self.measure.of(&point?.behaviour))
    }

    /// The model at the end of the training, behind the number of its parameters.
    fn ended(&self, seed: u64, size: &str, bias: f64) -> Option<[f64; 2]> {
        let end = self.own(seed, size, bias).max_by_key(|point| point.steps)?;
        Some([end.parameters as f64, self.measure.of(&end.behaviour)])
    }

    fn by_size(&self, bias: f64) -> Option<Trend> {
        let of_seed = |&seed: &u64| {
            slope(self.config.sizes.iter().map(|size| {
                let [parameters, value] = self.ended(seed, size, bias)?;
                Some([parameters.log10(), value])
            }))
        };
        self.trend(Along::Size, Some(bias), &of_seed)
    }

    fn by_steps(&self, bias: f64) -> Option<Trend> {
        let (steps, unit) = match self.training {
            Training::Dpo => (&self.config.dpo_steps, HUNDRED),
            Training::Ppo => (&self.config.ppo_iterations, TEN),
            _ => return None,
        };
        let of_size = |seed: u64, size: &str| {
            let at = std::iter::once(0).chain(steps.iter().copied());
            slope(at.map(|at| Some([at as f64 / unit, self.after(seed, size, bias, at)?])))
        };
        self.trend(Along::Steps, Some(bias), &|&seed| self.over_sizes(&|size| of_size(seed, size)))
    }

    fn by_bias(&self) -> Option<Trend> {
        let of_size = |seed: u64, size: &str| {
            slope(self.config.biases.iter().map(|&bias| Some([bias, self.ended(seed, size, bias)?[1]])))
        };
        self.trend(Along::Bias, None, &|&seed| self.over_sizes(&|size| of_size(seed, size)))
    }

    /// The mean over all sizes.
    fn over_sizes(&self, of_size: &dyn Fn(&str) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.config.sizes.iter().map(|size| of_size(size)).collect();
        Some(mean(&values?))
    }

    fn trend(&self, along: Along, bias: Option<f64>, of_seed: &dyn Fn(&u64) -> Option<f64>) -> Option<Trend> {
        let slope = Mean::of(&self.config.seeds.iter().map(of_seed).collect::<Option<Vec<_>>>()?);
        let finding = match slope.interval {
            Some([low, _]) if low > 0.0 => Finding::Worse,
            Some([_, high]) if high < 0.0 => Finding::Better,
            _ => Finding::CannotBeTold,
        };
        Some(Trend { training: self.training, measure: self.measure, along, bias, slope, finding })
    }

    fn control(&self, size: &str) -> Option<Control> {
        let start = |&seed: &u64| self.after(seed, size, 0.0, 0);
        let end = |&seed: &u64| self.ended(seed, size, 0.0).map(|[_, value]| value);
        let starts = self.config.seeds.iter().map(start).collect::<Option<Vec<f64>>>()?;
        let ends = self.config.seeds.iter().map(end).collect::<Option<Vec<f64>>>()?;
        let changes: Vec<f64> = ends.iter().zip(&starts).map(|(end, start)| end - start).collect();
        let [start, end] = [&starts, &ends].map(|values| Mean::within(values, self.measure.bounds()));
        let change = Mean::of(&changes);
        let holds = change.interval.map(|[low, high]| (low..=high).contains(&0.0));
        let (training, measure) = (self.training, self.measure);
        Some(Control { size: size.to_owned(), training, measure, start, end, change, holds })
    }
}

/// Slope of the line of least squares through places; none where one is not known, or all are above each other.
fn slope(places: impl Iterator<Item = Option<[f64; 2]>>) -> Option<f64> {
    let places: Vec<[f64; 2]> = places.collect::<Option<_>>()?;
    let count = places.len() as f64;
    let middle = |i: usize| places.iter().map(|place| place[i]).sum::<f64>() / count;
    let (x, y) = (middle(0), middle(1));
    let along: f64 = places.iter().map(|place| (place[0] - x).powi(2)).sum();
    let both: f64 = places.iter().map(|place| (place[0] - x) * (place[1] - y)).sum();
    (along > 0.0).then(|| both / along)
}

/// A share in per cent; what is rounded to nothing has no sign.
fn percent(share: f64) -> String {
    let tenths = (1000.0 * share).round() + 0.0;
    format!("{:.1}", tenths / 10.0)
}

/// A table in Markdown, its columns under each other.
fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0).max(header[i].len());
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} ")).collect();
        format!("|{}|\n", cells.join("|"))
    };
    let mut text = line(&mut header.iter().map(|&name| name.to_owned()));
    text += &line(&mut widths.iter().map(|&width| "-".repeat(width)));
    for row in rows {
        text += &line(&mut row.iter().cloned());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Along, Finding, Mean, Measure, slope, summarised};
    use crate::studies::sycophancy::opinions::Behaviour;
    use crate::studies::sycophancy::{Point, SycophancyConfig, Training};

    #[test]
    fn slopes_are_least_squares() {
        // By hand: means 1 and 4/3; Σ dx dy = (−1)(−1/3) + 0 + (1)(2/3) = 1, Σ dx² = 2.
        assert!((slope([[0.0, 1.0], [1.0, 1.0], [2.0, 2.0]].map(Some).into_iter()).unwrap() - 0.5).abs() < 1e-15);
        assert_eq!(slope([[1.0, 1.0], [1.0, 3.0]].map(Some).into_iter()), None);
        assert_eq!(
            (slope([].into_iter()), slope([Some([1.0, 1.0]), Some([2.0, 1.0]), None].into_iter())),
            (None, None)
        );
    }

    /// Points whose agreement is known: 0.2 for the base; at bias 4 it grows by 0.1 for each hundred steps and each tenfold
    /// size, at bias 0 not at all.
    fn made_up(seeds: &[u64]) -> (SycophancyConfig, Vec<Point>) {
        let config = SycophancyConfig {
            seeds: seeds.to_vec(),
            sizes: vec!["100k".to_owned(), "1m".to_owned()],
            biases: vec![0.0, 4.0],
            dpo_steps: vec![100, 200],
            ppo_iterations: vec![10],
            ..SycophancyConfig::default()
        };
        let mut points = Vec::new();
        for &seed in seeds {
            for (size, parameters) in [("100k", 100_000), ("1m", 1_000_000)] {
                let noise = 0.01 * (seed as f64 - 1.0);
                let mut add = |training: Training, bias: Option<f64>, steps: usize, agrees: f64| {
                    let agrees = agrees + noise;
                    let behaviour = Behaviour {
                        agrees,
                        agrees_error: 0.0,
                        agrees_with_right: 1.0,
                        accuracy: 0.8,
                        effect: agrees - 0.2,
                        effect_error: 0.0,
                    };
                    let (size, kl, weight) = (size.to_owned(), Some(0.0), None);
                    points.push(Point { seed, size, parameters, training, bias, weight, steps, behaviour, kl });
                };
                let larger = if size == "1m" { 0.1 } else { 0.0 };
                add(Training::Base, None, 0, 0.2);
                for (training, all) in [(Training::Dpo, vec![100, 200]), (Training::Ppo, vec![10])] {
                    for steps in all {
                        add(training, Some(0.0), steps, 0.2);
                        add(training, Some(4.0), steps, 0.2 + 0.001 * steps as f64 + larger);
                    }
                }
            }
        }
        (config, points)
    }

    /// Every seed moves by 0.06, by less than seeds differ: start and end belong together.
    #[test]
    fn a_control_that_moves_in_every_seed_does_not_hold() {
        let (config, mut points) = made_up(&[0, 1, 2]);
        for point in &mut points {
            point.behaviour.agrees += 0.1 * point.seed as f64;
            let ends = point.training == Training::Dpo && point.steps == 200 && point.size == "1m";
            if ends && point.bias == Some(0.0) {
                point.behaviour.agrees += 0.06;
            }
        }
        let found = summarised(&config, points);
        for control in found.controls.iter().filter(|control| control.measure == Measure::Agrees) {
            let moved = control.training == Training::Dpo && control.size == "1m";
            assert_eq!(control.holds, Some(!moved), "{}", control.words());
            assert!((control.change.mean - if moved { 0.06 } else { 0.0 }).abs() < 1e-12);
        }
        let text = found.text();
        let (agrees, effect) = (
            "agreement with wrong views: 3 of 4 within their intervals, 1 rise and 0 fall",
            "the view's effect: 4 of 4",
        );
        assert!(text.contains(agrees) && text.contains(effect), "{text}");
        assert!(text.contains("control, 1m, DPO: agreement with wrong views: from 30.0 to 36.0 "), "{text}");
    }

    #[test]
    fn what_is_known_of_points_is_found() {
        let (config, points) = made_up(&[0, 1, 2]);
        let found = summarised(&config, points);
        let trend = |training: Training, along: Along, bias: Option<f64>| {
            let fits = |trend: &&super::Trend| {
                trend.training == training
                    && trend.along == along
                    && trend.bias == bias
                    && trend.measure == Measure::Agrees
            };
            let trend = found.trends.iter().find(fits).unwrap();
            (trend.slope.mean, trend.finding)
        };
        let close = |(slope, finding): (f64, Finding), expected: f64, says: Finding| {
            assert!((slope - expected).abs() < 1e-12, "{slope}, expected {expected}");
            assert_eq!(finding, says);
        };
        close(trend(Training::Dpo, Along::Size, Some(4.0)), 0.1, Finding::Worse);
        // By hand, at 0, 1 and 2 hundreds: 0.2, 0.3, 0.4 for the one and 0.2, 0.4, 0.5 for the other.
        close(trend(Training::Dpo, Along::Steps, Some(4.0)), (0.1 + 0.15) / 2.0, Finding::Worse);
        // 0.4 and 0.5 against 0.2, over 4 nats.
        close(trend(Training::Dpo, Along::Bias, None), (0.05 + 0.075) / 2.0, Finding::Worse);
        let (slope, _) = trend(Training::Dpo, Along::Size, Some(0.0));
        assert!(slope.abs() < 1e-12);
        let row = found.table.iter().find(|row| row.training == Training::Dpo && row.bias == Some(4.0)).unwrap();
        assert_eq!((row.size.as_str(), row.steps), ("100k", 200));
        assert!((row.agrees.mean - 0.4).abs() < 1e-12);
        // Student's t of two degrees of freedom, 4.3027, times 0.01 / √3.
        let [low, high] = row.agrees.interval.unwrap();
        assert!((low - 0.375_158).abs() < 1e-5 && (high - 0.424_842).abs() < 1e-5, "{low} {high}");
        assert_eq!(found.controls.len(), 2 * 2 * 2);
        assert!(found.controls.iter().all(|control| control.holds == Some(true)));
        let text = found.text();
        assert!(
            text.contains("DPO at bias 4: agreement with wrong views: size makes it worse: 10.0 [10.0, 10.0] points"),
            "{text}"
        );
    }

    #[test]
    fn intervals_of_shares_are_of_shares() {
        let of = |values: &[f64]| Mean::within(values, [0.0, 1.0]).interval;
        assert_eq!(of(&[0.0, 0.1, 1.0]), Some([0.0, 1.0]));
        assert_eq!(of(&[0.4, 0.5, 0.6]), Mean::of(&[0.4, 0.5, 0.6]).interval);
        assert_eq!(of(&[0.5]), None);
    }

    #[test]
    fn one_seed_has_no_interval_and_tells_no_trend() {
        let (config, points) = made_up(&[1]);
        let found = summarised(&config, points);
        assert!(found.table.iter().all(|row| row.agrees.interval.is_none()));
        assert!(found.trends.iter().all(|trend| trend.finding == Finding::CannotBeTold));
        assert!(found.controls.iter().all(|control| control.holds.is_none()));
    }
}
