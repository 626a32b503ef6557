//! The order of the modules: `src/lib.rs` lists the floors, and no floor imports from a higher one. No two modules
//! import each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Module = Vec<String>;

/// The floors as `src/lib.rs` lists them, bottom first.
fn floors() -> Vec<String> {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let list = lib.lines().find_map(|line| line.strip_prefix("//     ")).expect("src/lib.rs has a list of the floors");
    list.split(", ").map(str::to_owned).collect()
}

/// Collects all modules with their source.
fn modules(folder: &Path, prefix: &[String], found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = prefix.to_vec();
        if path.is_dir() {
            module.push(name);
            modules(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if name != "mod" {
                module.push(name);
            }
            found.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The paths that a module uses: everything after `crate::` or `super::` in its code.
fn used(module: &Module, source: &str) -> BTreeSet<Module> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    // The tests of a module may import from any floor.
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut paths = BTreeSet::new();
    for root in ["crate::", "super::"] {
        for (start, _) in code.match_indices(root) {
            let preceded = code[..start].chars().next_back();
            if preceded.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let mut base = if root == "crate::" { Vec::new() } else { module[..module.len() - 1].to_vec() };
            let mut rest = &code[start + root.len()..];
            while let Some(above) = rest.strip_prefix("super::") {
                base.pop();
                rest = above;
            }
            for path in expand(rest) {
                paths.insert(base.iter().cloned().chain(path).collect());
            }
        }
    }
    paths
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`.
fn expand(text: &str) -> Vec<Module> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':' && c != '#').unwrap_or(text.len());
    let (path, rest) = text.split_at(end);
    let base: Module = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let Some(group) = rest.strip_prefix('{').filter(|_| path.ends_with("::")) else { return vec![base] };
    let mut depth = 1;
    let close = group.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let mut all = Vec::new();
    let mut piece = String::new();
    for c in group[..close.unwrap()].chars().chain([',']) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            let inner = std::mem::take(&mut piece);
            if !inner.trim().is_empty() {
                all.extend(expand(inner.trim()).into_iter().map(|path| base.iter().cloned().chain(path).collect()));
            }
        } else {
            piece.push(c);
        }
    }
    all
}

/// The modules that each module uses.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let mut all = BTreeMap::new();
    modules(Path::new("src"), &[], &mut all);
    for outside in ["lib", "fuzz", "guide"] {
        all.retain(|module, _| module.first().is_none_or(|first| first != outside));
    }
    let known: BTreeSet<Module> = all.keys().cloned().collect();
    let nearest = |path: &Module| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| known.contains(path));
    all.iter()
        .map(|(module, source)| (module.clone(), used(module, source).iter().filter_map(nearest).collect()))
        .collect()
}

#[test]
fn paths_in_braces_are_expanded() {
    let paths = |text| expand(text).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(paths("a::b;"), ["a::b"]);
    assert_eq!(paths("a::{b, c::{D, E}};"), ["a::b", "a::c::D", "a::c::E"]);
    assert_eq!(paths("a::f(x)"), ["a::f"]);
}

#[test]
fn no_floor_imports_from_a_higher_one() {
    let floors = floors();
    assert!(floors.len() > 8, "{floors:?}");
    let height = |module: &Module| {
        let floor = floors.iter().position(|floor| *floor == module[0]);
        floor.unwrap_or_else(|| panic!("{} is not in the list of floors in src/lib.rs", module[0]))
    };
    let mut upward = Vec::new();
    for (module, targets) in imports() {
        for target in targets {
            if height(&target) > height(&module) {
                upward.push(format!("{} imports {}", module.join("::"), target.join("::")));
            }
        }
    }
    assert!(upward.is_empty(), "imports from a higher floor: {upward:#?}");
}

#[test]
fn no_modules_import_each_other_in_a_cycle() {
    let imports = imports();
    // A module and its submodules count as one.
    let together = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let mut cycles = Vec::new();
    for start in imports.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = vec![start.clone()];
        while let Some(module) = next.pop() {
            for target in imports.get(&module).into_iter().flatten().filter(|target| !together(&module, target)) {
                if target == start {
                    cycles.push(format!("{} ... {}", start.join("::"), module.join("::")));
                }
                if seen.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
    }
    assert!(cycles.is_empty(), "import cycles: {cycles:#?}");
}
