/* e^x, to a rounding or two: 2^n e^r with r within half a log 2 of zero. The standard library's is not always there as
   vectors. */
static inline float exponential(float x)
{
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds, as 1.5 * 2^23 has no digits to spare */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;      /* log 2 in two parts, of which the first is exact */
    float y = 1.0f / 5040.0f;
    y = y * r + 1.0f / 720.0f;
    y = y * r + 1.0f / 120.0f;
    y = y * r + 1.0f / 24.0f;
    y = y * r + 1.0f / 6.0f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    int power = ((int)n + 127) << 23;
    float scale;
    __builtin_memcpy(&scale, &power, sizeof scale);
    return y * scale;
}
