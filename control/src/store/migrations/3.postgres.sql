INSERT INTO shares SELECT tenant, id, 'admins', ''::bytea FROM computers;
INSERT INTO shares SELECT tenant, id, 'users', ''::bytea FROM computers;
