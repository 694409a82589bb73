//! The registration of a metric.

use prometheus_client::registry::{Metric, Registry};

/// Makes a metric, and registers it under a name.
pub(crate) fn register<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    description: &str,
) -> M {
    let metric = M::default();
    registry.register(name, description, metric.clone());
    metric
}
