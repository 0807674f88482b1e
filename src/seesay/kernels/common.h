/* Shared by the native operations. All arrays are contiguous; loops that are shorter than SMALL multiplications run in
   one thread, as waking a second one takes longer. */

#define SMALL 32768

/* e^x with a relative error of about 1e-7: 2^n e^r with |r| <= log(2) / 2. The C library's is not always vectorised. */
static inline float exponential(float x)
{
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds: 1.5 * 2^23 leaves no fractional bits */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;     /* log(2) in two parts; the first is exact */
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

static inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }
