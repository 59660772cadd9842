-- Since when an account is disabled: it signs nobody in, and its tokens are refused.
ALTER TABLE users ADD COLUMN disabled_at BIGINT;
