-- Secrets are sealed from here on (`store/seal.rs`): a version before must not open the file.
SELECT 1;
