//! Files of different objects are never taken for each other.

use std::fs;
use std::path::Path;

use larder_types::dtype::DType;
use larder_types::object::ObjectKey;
use larder_types::{Layout, LayoutId};

use super::*;
use crate::testing::{Directory, TestArena, contents, key};

const BYTES: u64 = 512;

fn layout(dtype: DType) -> LayoutId {
    Layout::new(&[2, 16, 8], dtype).unwrap().id()
}

fn open(directory: &Path) -> Fs {
    Fs::open(&FsConfig::new(directory), 2, CapacityLimits::capacity(1 << 20), None).unwrap()
}

/// The bytes that tests store for a key.
fn bytes_of(key: &ObjectKey) -> Vec<u8> {
    blake3::hash(key.native_key().as_bytes()).as_bytes().repeat(BYTES as usize / 32)
}

async fn store(fs: &Fs, arena: &TestArena, key: &ObjectKey) {
    let region = arena.region(BYTES);
    region.fill(&bytes_of(key)).unwrap();
    let stored = fs.store(vec![Transfer { key: key.clone(), region }]).await;
    assert_eq!(stored[0].as_ref().unwrap().written_bytes, BYTES, "{key:?}");
}

/// Whether a lookup finds the object. What is found must be loaded, with its own bytes, and nothing else.
async fn read(fs: &Fs, arena: &TestArena, key: &ObjectKey) -> bool {
    let found = fs.lookup(vec![key.clone()]).await[0].as_ref().unwrap().is_some();
    let region = arena.region(BYTES);
    let loaded = fs.load(vec![Transfer { key: key.clone(), region: region.clone() }]).await[0].is_ok();
    assert_eq!(found, loaded, "{key:?}");
    assert!(!loaded || contents(&region) == bytes_of(key), "bytes of another object for {key:?}");
    found
}

async fn listed(fs: &Fs) -> Vec<ObjectKey> {
    let page = fs.list(None, NonZeroUsize::MAX).await.unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

#[tokio::test]
async fn layouts_of_equal_size_have_files_of_their_own() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("layouts"));
    let keys = [DType::Float16, DType::BFloat16, DType::Int16].map(|dtype| key(1).with_layout(layout(dtype)));
    let fs = open(directory.path());
    assert!(!read(&fs, &arena, &keys[0]).await);
    for (n, key) in keys.iter().enumerate() {
        store(&fs, &arena, key).await;
        for (other, key) in keys.iter().enumerate() {
            assert_eq!(read(&fs, &arena, key).await, other <= n);
        }
    }
    assert!(directory.path().join(key(1).file_name()).exists(), "the first has the name that LMCache uses");
    // Each has its identity after a restart.
    fs.close().await;
    let fs = open(directory.path());
    fs.counted().await;
    assert_eq!((fs.usage().objects, fs.usage().used_bytes), (3, 3 * BYTES));
    let found = listed(&fs).await;
    assert!(found.len() == 3 && keys.iter().all(|key| found.contains(key)), "{found:?}");
    for key in &keys {
        assert!(read(&fs, &arena, key).await);
    }
    assert!(*fs.delete(vec![keys[1].clone()]).await[0].as_ref().unwrap());
    assert!(read(&fs, &arena, &keys[0]).await && !read(&fs, &arena, &keys[1]).await);
    assert_eq!(fs.usage().objects, 2);
    fs.close().await;
}

#[tokio::test]
async fn files_of_lmcache_belong_to_the_first_layout_that_looks() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("layouts-lmcache"));
    let (float, bfloat) =
        (key(1).with_layout(layout(DType::Float16)), key(1).with_layout(layout(DType::BFloat16)));
    fs::write(directory.path().join(key(1).file_name()), bytes_of(&float)).unwrap();
    let fs = open(directory.path());
    assert!(read(&fs, &arena, &float).await);
    assert!(!read(&fs, &arena, &bfloat).await);
    fs.counted().await;
    assert_eq!(fs.usage().objects, 1, "counted once");
    fs.close().await;
}

#[tokio::test]
async fn models_with_similar_names_have_files_of_their_own() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("models"));
    let names = ["org/model", "org-SEP-model", "org-SEP/b", "org/SEP-b", "org-SEP-SEP-b", "org%2Fmodel"];
    let fs = open(directory.path());
    let keys: Vec<_> = names
        .iter()
        .map(|name| ObjectKey { model_name: (*name).into(), ..key(1).with_layout(layout(DType::Float16)) })
        .collect();
    for key in &keys {
        assert!(!read(&fs, &arena, key).await);
        store(&fs, &arena, key).await;
    }
    for key in &keys {
        assert!(read(&fs, &arena, key).await);
    }
    fs.close().await;
    let fs = open(directory.path());
    let found = listed(&fs).await;
    assert!(found.len() == keys.len() && keys.iter().all(|key| found.contains(key)), "{found:?}");
    fs.close().await;
}

#[tokio::test]
async fn a_directory_that_was_removed_begins_anew() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("layouts-removed"));
    let base = directory.path().join("kv");
    let (float, bfloat) =
        (key(1).with_layout(layout(DType::Float16)), key(1).with_layout(layout(DType::BFloat16)));
    let (fs, other) = (open(&base), open(&base));
    store(&fs, &arena, &float).await;
    fs::remove_dir_all(&base).unwrap();
    // Another server stores under the plain name now.
    store(&other, &arena, &bfloat).await;
    assert!(base.join(key(1).file_name()).exists());
    let region = arena.region(BYTES);
    let loaded = fs.load(vec![Transfer { key: float.clone(), region }]).await;
    assert!(loaded[0].is_err(), "it is not the object that was stored");
    store(&fs, &arena, &float).await;
    assert!(read(&fs, &arena, &float).await && read(&other, &arena, &bfloat).await);
    fs.close().await;
    other.close().await;
}
