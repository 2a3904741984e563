-- Counts what changes whom a tenant believes, so that several nodes at one database notice each other's changes.
ALTER TABLE tenants ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
