//! `wsroll operator`.

use std::net::SocketAddr;

use clap::Args;

use crate::outbound::Allowed;

/// How the operator is run.
#[derive(Clone, Debug, Args)]
pub struct OperatorArgs {
    /// Watch only this namespace; without it all
    #[arg(long, env = "WSROLL_NAMESPACE", value_name = "NS")]
    pub namespace: Option<String>,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "WSROLL_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// Image of the sidecar (drain.via: Sidecar) where a rollout names none; absent: the image this operator runs from
    #[arg(long, env = "WSROLL_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: Option<String>,
    /// Lets URLs in rollouts (probes and whatever else is called for them) name what is refused otherwise: loopback, link-local,
    /// metadata, unspecified and multicast addresses. A network, an address or a host name; may be repeated
    #[arg(
        long,
        env = "WSROLL_ALLOW_OUTBOUND",
        value_delimiter = ',',
        value_name = "CIDR|HOST"
    )]
    pub allow_outbound: Vec<Allowed>,
}
