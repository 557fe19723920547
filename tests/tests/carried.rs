//! The lists of tests that `tests/kernels/run` gives to its machines name tests that exist: a test that is renamed would otherwise run
//! where it cannot, or nowhere.

use std::{fs, path::Path};

use flowcar_tests::test_names;

#[test]
fn lists_of_the_emulated_kernels_name_tests_that_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let names = test_names::of(&folder.join("kernels.rs"));
    assert!(names.len() > 60, "{names:#?}");
    for list in ["left-out.list", "alike.list", "without-bpf.list"] {
        let text = fs::read_to_string(folder.join(list)).expect(list);
        let parts = text.lines().filter(|line| !line.starts_with('#'));
        let parts: Vec<_> = parts.filter(|line| !line.is_empty()).collect();
        assert!(!parts.is_empty(), "{list}");
        for part in parts {
            let named = names.iter().any(|name| name.contains(part));
            assert!(named, "{list}: no test has {part} in its name");
        }
    }
}
