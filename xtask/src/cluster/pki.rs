//! The cluster's own certificate authority, one certificate per component, and the access files made of them.

use std::fs;

use anyhow::{Context as _, Result};

use super::layout::{API_PORT, API_SERVICE, Layout, NODE, NODE_ADDRESS, text};
use crate::shell;

/// Days until the certificates end; a development cluster does not live that long.
const DAYS: &str = "3650";

/// Who gets a certificate: file name, subject, and the names it answers to.
const CERTIFICATES: [(&str, &str, &[&str]); 6] = [
    ("admin", "/O=system:masters/CN=admin", &[]),
    ("controller-manager", "/CN=system:kube-controller-manager", &[]),
    ("scheduler", "/CN=system:kube-scheduler", &[]),
    (
        "kubelet",
        "/O=system:nodes/CN=system:node:wsroll-dev",
        &["DNS:wsroll-dev", "IP:10.244.0.1", "IP:127.0.0.1"],
    ),
    ("proxy", "/CN=system:kube-proxy", &[]),
    (
        "apiserver",
        "/CN=kube-apiserver",
        &[
            "DNS:localhost",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "DNS:kubernetes.default.svc.cluster.local",
        ],
    ),
];

/// Makes what is missing: certificates, the key that signs service account tokens, access files.
pub fn ensure(layout: &Layout) -> Result<()> {
    let done = layout.pki("complete");
    if done.exists() {
        return Ok(());
    }
    authority(layout)?;
    for (name, subject, names) in CERTIFICATES {
        let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
        if name == "apiserver" {
            names.extend(["127.0.0.1", API_SERVICE, NODE_ADDRESS].map(|address| format!("IP:{address}")));
        }
        certificate(layout, name, subject, &names).with_context(|| format!("failed to certify {name}"))?;
    }
    openssl(layout, &["genrsa", "-out", "service-accounts.key", "2048"])?;
    for (user, ..) in CERTIFICATES {
        let file = if user == "admin" {
            layout.kubeconfig()
        } else {
            layout.component_kubeconfig(user)
        };
        write_private(&file, &kubeconfig(layout, user))?;
    }
    fs::write(done, "").context("failed to mark the certificates complete")
}

fn authority(layout: &Layout) -> Result<()> {
    openssl(
        layout,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-subj",
            "/CN=wsroll-dev",
            "-days",
            DAYS,
        ],
    )
}

fn certificate(layout: &Layout, name: &str, subject: &str, names: &[String]) -> Result<()> {
    let (key, request, certificate) = (
        format!("{name}.key"),
        format!("{name}.csr"),
        format!("{name}.crt"),
    );
    let extensions = format!("{name}.ext");
    fs::write(layout.pki(&extensions), extension_file(names)).context("failed to write the extensions")?;
    openssl(
        layout,
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            subject,
        ],
    )?;
    openssl(
        layout,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            DAYS,
            "-out",
            &certificate,
            "-extfile",
            &extensions,
        ],
    )
}

fn extension_file(names: &[String]) -> String {
    let usage = "extendedKeyUsage=serverAuth,clientAuth
";
    if names.is_empty() {
        usage.to_owned()
    } else {
        format!(
            "{usage}subjectAltName={}
",
            names.join(",")
        )
    }
}

fn openssl(layout: &Layout, arguments: &[&str]) -> Result<()> {
    shell::output(
        shell::command("openssl")
            .args(arguments)
            .current_dir(layout.path("pki")),
    )
    .map(drop)
}

/// An access file that names certificates by path; `admin`'s is the one for users.
fn kubeconfig(layout: &Layout, user: &str) -> String {
    let (authority, certificate, key) = (
        text(&layout.pki("ca.crt")),
        text(&layout.pki(&format!("{user}.crt"))),
        text(&layout.pki(&format!("{user}.key"))),
    );
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: {NODE}\n\
         clusters:\n\
         - name: {NODE}\n  cluster: {{server: \"https://127.0.0.1:{API_PORT}\", certificate-authority: \"{authority}\"}}\n\
         users:\n\
         - name: {user}\n  user: {{client-certificate: \"{certificate}\", client-key: \"{key}\"}}\n\
         contexts:\n\
         - name: {NODE}\n  context: {{cluster: {NODE}, user: {user}}}\n"
    )
}

fn write_private(path: &std::path::Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("failed to protect an access file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_into_the_extensions() {
        assert_eq!(extension_file(&[]), "extendedKeyUsage=serverAuth,clientAuth\n");
        let names = ["DNS:a".to_owned(), "IP:1.2.3.4".to_owned()];
        assert!(extension_file(&names).ends_with("subjectAltName=DNS:a,IP:1.2.3.4\n"));
    }

    #[test]
    fn access_names_the_user_and_the_server() {
        let file = kubeconfig(&Layout::new("/state"), "scheduler");
        assert!(file.contains("server: \"https://127.0.0.1:16443\""), "{file}");
        assert!(
            file.contains("client-key: \"/state/pki/scheduler.key\""),
            "{file}"
        );
    }
}
