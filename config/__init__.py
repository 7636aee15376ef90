"""Settings, prices, the strict YAML reader and the database: what every other package stands on."""
