//! The reconcile pipeline: observe, plan, apply, report. Only this room knows that there is a Kubernetes.

pub mod lease;
pub mod shutdown;
