//! The learned reward: an ensemble of predictors fitted on comparisons (Christiano et al. 2017, §2.2).
//!
//! [`ensemble`] holds the networks and predicts, [`fit`] trains them, [`metrics`] compares them with the true reward.
//! **Architecture invariant:** nothing here but [`metrics`] ever sees a true reward, except [`fit`] in the explicit
//! "regression to true returns" ablation.

pub mod ensemble;
pub mod fit;
pub mod metrics;
