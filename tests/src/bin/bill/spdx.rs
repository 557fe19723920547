//! The document, as SPDX 2.3 has it.

use serde_json::{Value, json};

use crate::crates::Crate;

/// The bill of `package`'s binary.
pub(crate) fn document(package: &str, created: &str, rust: &str, crates: &[Crate]) -> Value {
    let mut packages: Vec<Value> = crates.iter().map(entry).collect();
    packages.push(linked("rust-std", rust, "MIT OR Apache-2.0"));
    packages.push(linked("musl", &format!("of Rust {rust}"), "MIT"));
    let identifier = |package: &Value| package["SPDXID"].clone();
    let whole = identifier(&packages[0]);
    let mut relationships = vec![relation(&json!("SPDXRef-DOCUMENT"), "DESCRIBES", &whole)];
    let parts = packages[1..].iter().map(identifier);
    relationships.extend(parts.map(|part| relation(&whole, "DEPENDS_ON", &part)));
    let version = &crates[0].version;
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{package}-{version}"),
        "documentNamespace": format!("https://github.com/flowcar/flowcar/sbom/{package}-{version}-{created}"),
        "creationInfo": { "created": created, "creators": ["Tool: flowcar-bill"] },
        "packages": packages,
        "relationships": relationships,
    })
}

fn relation(of: &Value, kind: &str, to: &Value) -> Value {
    json!({ "spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to })
}

fn entry(each: &Crate) -> Value {
    let Crate { name, version, .. } = each;
    let mut entry = linked(name, version, &each.licence);
    if let Some(repository) = &each.repository {
        entry["homepage"] = json!(repository);
    }
    if each.source.is_some() {
        entry["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!("pkg:cargo/{name}@{version}"),
        }]);
    }
    entry
}

fn linked(name: &str, version: &str, licence: &str) -> Value {
    // Identifiers are of letters, digits, dots and hyphens.
    let identifier: String = format!("SPDXRef-{name}-{version}")
        .chars()
        .map(|sign| {
            if sign.is_ascii_alphanumeric() || sign == '.' {
                sign
            } else {
                '-'
            }
        })
        .collect();
    json!({
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    })
}
