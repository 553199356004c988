//! The learned reward: an ensemble of predictors fitted on comparisons (Christiano et al. 2017, §2.2).
//!
//! [`ensemble`] holds the networks and predicts, [`fit`] trains them. **Architecture invariant:** nothing here ever
//! sees a true reward, except [`fit`] in the explicit "regression to true returns" ablation.

pub mod ensemble;
pub mod fit;
