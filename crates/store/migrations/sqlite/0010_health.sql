-- What an agent found when it looked at itself and its host (JSON); NULL from agents that do not report it.
ALTER TABLE agents ADD COLUMN health TEXT;
