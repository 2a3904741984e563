INSERT INTO shares SELECT tenant, id, 'admins', x'' FROM computers;
INSERT INTO shares SELECT tenant, id, 'users', x'' FROM computers;
