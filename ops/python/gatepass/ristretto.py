"""The group ristretto255 (RFC 9496), as its formulas stand there. Not in constant time: for checking vectors."""

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
INVSQRT_A_MINUS_D = 54469307008909316920995813868745141605393597292927456921205312896311721017578
SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235
NEUTRAL = (0, 1, 1, 0)


class NotAnElement(Exception):
    pass


def magnitude(x):
    x %= P
    return P - x if x & 1 else x


def sqrt_ratio(u, v):
    r = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    check = v * r * r % P
    correct, flipped, flipped_i = (check == want % P for want in (u, -u, -u * SQRT_M1))
    if flipped or flipped_i:
        r = r * SQRT_M1 % P
    return correct or flipped, magnitude(r)


def decode(data):
    s = int.from_bytes(data, "little")
    if s >= P or s & 1:
        raise NotAnElement
    u1, u2 = 1 - s * s, 1 + s * s
    v = -D * u1 * u1 - u2 * u2
    is_square, inverse = sqrt_ratio(1, v * u2 * u2 % P)
    den_x = inverse * u2
    x, y = magnitude(2 * s * den_x), u1 * inverse * den_x * v % P
    t = x * y % P
    if not is_square or t & 1 or y == 0:
        raise NotAnElement
    return x, y, 1, t


def encode(point):
    x, y, z, t = point
    u1, u2 = (z + y) * (z - y), x * y
    _, inverse = sqrt_ratio(1, u1 * u2 * u2 % P)
    den1, den2 = u1 * inverse, u2 * inverse
    z_inverse = den1 * den2 * t
    if t * z_inverse % P & 1:
        x, y, den = y * SQRT_M1, x * SQRT_M1, den1 * INVSQRT_A_MINUS_D
    else:
        den = den2
    if x * z_inverse % P & 1:
        y = -y
    return magnitude(den * (z - y)).to_bytes(32, "little")


def add(one, other):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = one, other
    a, b = (y1 - x1) * (y2 - x2), (y1 + x1) * (y2 + x2)
    c, d = t1 * 2 * D * t2, 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(scalar, point):
    result = NEUTRAL
    for bit in bin(scalar % ORDER)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


def map_to_group(t):
    r = SQRT_M1 * t * t % P
    u, v = (r + 1) * (1 - D * D), (-1 - r * D) * (r + D)
    was_square, s = sqrt_ratio(u % P, v % P)
    c = -1
    if not was_square:
        s, c = -magnitude(s * t), r
    n = c * (r - 1) * (D - 1) ** 2 - v
    w0, w1, w2, w3 = 2 * s * v, n * SQRT_AD_MINUS_ONE, 1 - s * s, 1 + s * s
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def from_uniform_bytes(data):
    halves = (int.from_bytes(half, "little") & (2**255 - 1) for half in (data[:32], data[32:]))
    first, second = (map_to_group(half % P) for half in halves)
    return add(first, second)
