/* What a step does besides its large products, each in one pass. What is computed, and of what, is said in kernels.py
   and where it is called. All arrays are contiguous; image[row] is the image of a row. */

#include "../exponential.h"

#define ROWS 16  /* of a block, which a thread takes whole */
#define WIDE 128 /* units of which the keys of some images stay in a core's cache while their rows are gone through */
#define PART 64  /* numbers of a row whose sums stay in registers */
#define SMALL 32768 /* multiplications that are done sooner than a second thread has been woken */

/* Energies (rows, regions) of the rows from `begin` to `end`, of keys (images, regions, units), factors (rows, units) and
   score (units). Without `image` every image has `each` rows, one after the other. */
static void energies_of_rows(const float *keys, const float *factors, const float *score, const long long *image,
                             long long each, long long begin, long long end, long long regions, long long units,
                             float *energies)
{
    for (long long at = 0; at < units; at += WIDE) {
        long long width = units - at < WIDE ? units - at : WIDE;
        const float *v = score + at;
        for (long long row = begin; row < end; row++) {
            const float *f = factors + row * units + at;
            const float *k = keys + (image ? image[row] : row / each) * regions * units + at;
            float *out = energies + row * regions;
            for (long long region = 0; region < regions; region++, k += units) {
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (long long unit = 0; unit < width; unit++)
                    sum += v[unit] / (1.0f + k[unit] * f[unit]);
                out[region] = (at ? out[region] : 0.0f) - 2.0f * sum;
            }
        }
    }
}

/* Blocks of rows, as even as they can be and some for each thread; block b begins with row b rows / blocks. */
static long long blocks_of(long long rows)
{
    long long few = rows < 4 ? rows : 4;
    return rows > 4 * ROWS ? (rows + ROWS - 1) / ROWS : few;
}

void additive_energies(const float *keys, const float *factors, const float *score, const long long *image,
                       long long each, long long rows, long long regions, long long units, float *energies)
{
    long long blocks = blocks_of(rows), block;
#pragma omp parallel for schedule(static) if (rows * regions * units > SMALL)
    for (block = 0; block < blocks; block++)
        energies_of_rows(keys, factors, score, image, each, block * rows / blocks, (block + 1) * rows / blocks, regions,
                         units, energies);
}

/* Makes weights of energies (regions), and their mean (size) of what was seen (regions, size). */
static void look(float *weights, const float *seen, long long regions, long long size, float *mean)
{
    float top = weights[0], sum = 0.0f;
    for (long long region = 1; region < regions; region++)
        top = weights[region] > top ? weights[region] : top;
#pragma omp simd reduction(+ : sum)
    for (long long region = 0; region < regions; region++)
        sum += weights[region] = exponential(weights[region] - top);
    for (long long at = 0; at < size; at++)
        mean[at] = 0.0f;
    for (long long region = 0; region < regions; region++, seen += size) {
        float share = weights[region] /= sum;
        for (long long at = 0; at < size; at++)
            mean[at] += share * seen[at];
    }
}

/* exp(2 q) of queries that float32 bears. */
static inline float factor_of(float query)
{
    query = query > 43.0f ? 43.0f : query;
    return exponential(2.0f * (query < -43.0f ? -43.0f : query));
}

/* Writes sum over regions of g r (1 - r) to slopes (rows, units), g being grad (rows, regions); adds the same over rows
   to keys_grad (images, regions, units), and g r over both to score_grad (units). Threads share the units out, so that
   no two of them write to one place. */
void additive_gradients(const float *keys, const float *factors, const float *grad, const long long *image,
                        long long rows, long long regions, long long units,
                        float *slopes, float *keys_grad, float *score_grad)
{
    long long parts = (units + PART - 1) / PART, part;
#pragma omp parallel for schedule(static) if (rows * regions * units > SMALL)
    for (part = 0; part < parts; part++) {
        long long at = part * PART, width = units - at < PART ? units - at : PART;
        float factor[PART], slope[PART], seen[PART];
        for (int unit = 0; unit < PART; unit++)
            seen[unit] = 0.0f;
        for (long long row = 0; row < rows; row++) {
            long long first = image[row] * regions * units + at;
            const float *k = keys + first, *g = grad + row * regions;
            float *d = keys_grad + first;
            for (int unit = 0; unit < PART; unit++) {
                factor[unit] = unit < width ? factors[row * units + at + unit] : 0.0f;
                slope[unit] = 0.0f;
            }
            for (long long region = 0; region < regions; region++, k += units, d += units) {
                float here = g[region];
                if (width == PART) { /* a length that the compiler knows keeps the sums in registers */
#pragma omp simd
                    for (int unit = 0; unit < PART; unit++) {
                        float r = 1.0f / (1.0f + k[unit] * factor[unit]), t = here * (r - r * r);
                        slope[unit] += t;
                        d[unit] += t;
                        seen[unit] += here * r;
                    }
                } else {
                    for (long long unit = 0; unit < width; unit++) {
                        float r = 1.0f / (1.0f + k[unit] * factor[unit]), t = here * (r - r * r);
                        slope[unit] += t;
                        d[unit] += t;
                        seen[unit] += here * r;
                    }
                }
            }
            for (long long unit = 0; unit < width; unit++)
                slopes[row * units + at + unit] = slope[unit];
        }
        for (long long unit = 0; unit < width; unit++)
            score_grad[at + unit] += seen[unit];
    }
}

/* out (rows, columns) = x (rows, inner) times matrix (images, inner, columns) of the row's image. */
void image_product(const float *matrix, const float *x, const long long *image,
                     long long rows, long long inner, long long columns, float *out)
{
    long long parts = (columns + PART - 1) / PART, job;
#pragma omp parallel for schedule(static) if (rows * inner * columns > SMALL)
    for (job = 0; job < rows * parts; job++) {
        long long row = job / parts, at = job % parts * PART, width = columns - at < PART ? columns - at : PART;
        const float *m = matrix + image[row] * inner * columns + at, *a = x + row * inner;
        float sum[PART];
        for (int column = 0; column < PART; column++)
            sum[column] = 0.0f;
        for (long long each = 0; each < inner; each++, m += columns) {
            if (width == PART) {
#pragma omp simd
                for (int column = 0; column < PART; column++)
                    sum[column] += a[each] * m[column];
            } else {
                for (long long column = 0; column < width; column++)
                    sum[column] += a[each] * m[column];
            }
        }
        for (long long column = 0; column < width; column++)
            out[row * columns + at + column] = sum[column];
    }
}

/* out (rows, inner) = grad (rows, columns) times the transpose of the same. */
void image_product_back(const float *matrix, const float *grad, const long long *image,
                          long long rows, long long inner, long long columns, float *out)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * inner * columns > SMALL)
    for (row = 0; row < rows; row++) {
        const float *m = matrix + image[row] * inner * columns, *g = grad + row * columns;
        for (long long each = 0; each < inner; each++, m += columns) {
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (long long column = 0; column < columns; column++)
                sum += m[column] * g[column];
            out[row * inner + each] = sum;
        }
    }
}

/* As many numbers as the processor has in a register, so that six rows' sums by two registers stay in theirs. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
#define TOGETHER 6

/* How many outputs a block of packed weights has. */
long long block_width(void) { return 2 * LANES; }

static inline __attribute__((always_inline)) void rows_of_block(
    const float *x, const float *block, const float *bias, long long inner, long long outputs, long long at,
    float *out, int rows)
{
    lanes sums[TOGETHER][2], left, right;
    for (int row = 0; row < rows; row++)
        sums[row][0] = sums[row][1] = (lanes){0.0f};
    for (long long each = 0; each < inner; each++, block += 2 * LANES) {
        __builtin_memcpy(&left, block, sizeof left);
        __builtin_memcpy(&right, block + LANES, sizeof right);
        for (int row = 0; row < rows; row++) {
            float factor = x[row * inner + each];
            sums[row][0] += left * factor;
            sums[row][1] += right * factor;
        }
    }
    long long width = outputs - at < 2 * LANES ? outputs - at : 2 * LANES;
    for (int row = 0; row < rows; row++)
        for (long long place = 0; place < width; place++)
            out[row * outputs + at + place] = sums[row][place / LANES][place % LANES] + (bias ? bias[at + place] : 0.0f);
}

/* out (rows, outputs) = x (rows, inner) times the transpose of a weight, plus bias (outputs) if there is one. The weight
   comes in blocks of `block_width` outputs, (blocks, inner, width), the last filled up. A search has few rows, for which
   the weights' way from the cache is most of the work: each number is read once for six of them. A row's sums are added
   up in one order, whatever rows are beside it. */
void rows_product(const float *x, const float *weight, const float *bias, long long rows, long long inner,
                  long long outputs, float *out)
{
    long long blocks = (outputs + 2 * LANES - 1) / (2 * LANES), block;
#pragma omp parallel for schedule(static) if (inner * outputs > SMALL)
    for (block = 0; block < blocks; block++) {
        const float *w = weight + block * inner * 2 * LANES;
        for (long long row = 0; row < rows; row += TOGETHER) {
            const float *from = x + row * inner;
            float *to = out + row * outputs;
            long long at = block * 2 * LANES;
            switch (rows - row) { /* a number that the compiler knows keeps the sums in registers */
            case 1: rows_of_block(from, w, bias, inner, outputs, at, to, 1); break;
            case 2: rows_of_block(from, w, bias, inner, outputs, at, to, 2); break;
            case 3: rows_of_block(from, w, bias, inner, outputs, at, to, 3); break;
            case 4: rows_of_block(from, w, bias, inner, outputs, at, to, 4); break;
            case 5: rows_of_block(from, w, bias, inner, outputs, at, to, 5); break;
            default: rows_of_block(from, w, bias, inner, outputs, at, to, TOGETHER); break;
            }
        }
    }
}

static inline float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

/* Numbers of float32, or of bfloat16 if `half`: the upper half of a float32. */
static inline float get(const void *numbers, long long at, int half)
{
    if (!half)
        return ((const float *)numbers)[at];
    unsigned int bits = (unsigned int)((const unsigned short *)numbers)[at] << 16;
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

static inline void put(void *numbers, long long at, int half, float number)
{
    if (!half) {
        ((float *)numbers)[at] = number;
        return;
    }
    unsigned int bits;
    __builtin_memcpy(&bits, &number, sizeof bits);
    unsigned int nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16; /* ties to even */
    ((unsigned short *)numbers)[at] = number == number ? nearest : 0x7fc0u;
}

/* `half` is handed on as a constant, so that the loops have no question in them. */
#define BOTH(function, ...)            \
    do {                               \
        if (half)                      \
            function(__VA_ARGS__, 1);  \
        else                           \
            function(__VA_ARGS__, 0);  \
    } while (0)

static inline __attribute__((always_inline)) float score_of(
    const void *logits, const float *offsets, long long first, long long word, int half)
{
    return get(logits, first + word, half) + (offsets ? offsets[word] : 0.0f);
}

static inline __attribute__((always_inline)) void cross_entropy_row(
    const void *logits, const float *offsets, const long long *targets, long long row, long long words, float smoothing,
    float *log_sums, float *losses, int half)
{
    long long first = row * words;
    float top = score_of(logits, offsets, first, 0, half), sum = 0.0f, total = 0.0f;
#pragma omp simd reduction(max : top) reduction(+ : total)
    for (long long word = 0; word < words; word++) {
        float score = score_of(logits, offsets, first, word, half);
        top = score > top ? score : top;
        total += score;
    }
#pragma omp simd reduction(+ : sum)
    for (long long word = 0; word < words; word++)
        sum += exponential(score_of(logits, offsets, first, word, half) - top);
    log_sums[row] = top + __builtin_logf(sum);
    float spread = smoothing ? smoothing * (log_sums[row] - total / words) : 0.0f;
    losses[row] = (1.0f - smoothing) * (log_sums[row] - score_of(logits, offsets, first, targets[row], half)) + spread;
}

/* Cross-entropies (rows) of logits (rows, words) with offsets (words) added to them, if there are any: 0, or minus
   infinity for a word that is never said, which smoothing does not bear. log_sums (rows) are log sum e^logit. */
void cross_entropy_rows(const void *logits, const float *offsets, const long long *targets, long long rows, long long words,
              float smoothing, float *log_sums, float *losses, int half)
{
    long long row;
#pragma omp parallel for schedule(static)
    for (row = 0; row < rows; row++) {
        if (offsets)
            BOTH(cross_entropy_row, logits, offsets, targets, row, words, smoothing, log_sums, losses);
        else
            BOTH(cross_entropy_row, logits, 0, targets, row, words, smoothing, log_sums, losses);
    }
}

static inline __attribute__((always_inline)) void cross_entropy_row_backward(
    const void *logits, const float *offsets, const long long *targets, const float *log_sums, const float *slopes,
    long long row, long long words, float smoothing, void *grad, int half)
{
    long long first = row * words, target = targets[row];
    float log_sum = log_sums[row], slope = slopes[row], every = smoothing / words;
#pragma omp simd
    for (long long word = 0; word < words; word++) {
        float share = exponential(score_of(logits, offsets, first, word, half) - log_sum);
        share = offsets && offsets[word] < 0.0f ? 0.0f : share; /* not next to nothing, which is slow to work with */
        put(grad, first + word, half, slope * (share - every));
    }
    float share = exponential(score_of(logits, offsets, first, target, half) - log_sum);
    put(grad, first + target, half, slope * (share - every - (1.0f - smoothing)));
}

/* Writes the gradient of a sum of the losses, in which each counts `slopes` (rows) times, to grad (rows, words). */
void cross_entropy_rows_backward(const void *logits, const float *offsets, const long long *targets, const float *log_sums,
                   const float *slopes, long long rows, long long words, float smoothing, void *grad, int half)
{
    long long row;
#pragma omp parallel for schedule(static)
    for (row = 0; row < rows; row++) {
        if (offsets)
            BOTH(cross_entropy_row_backward, logits, offsets, targets, log_sums, slopes, row, words, smoothing, grad);
        else
            BOTH(cross_entropy_row_backward, logits, 0, targets, log_sums, slopes, row, words, smoothing, grad);
    }
}

static inline __attribute__((always_inline)) void attend_to(
    const float *keys, const void *projected, const float *score, const float *memory, const long long *image,
    long long each, long long begin, long long end, long long regions, long long units, long long width, long long size,
    float *factors, float *weights, void *context, int half)
{
    float wide[half ? size : 1];
    for (long long row = begin; row < end; row++)
#pragma omp simd
        for (long long unit = 0; unit < units; unit++)
            factors[row * units + unit] = factor_of(get(projected, row * width + unit, half));
    energies_of_rows(keys, factors, score, image, each, begin, end, regions, units, weights);
    for (long long row = begin; row < end; row++) {
        const float *seen = memory + (image ? image[row] : row / each) * regions * size;
        look(weights + row * regions, seen, regions, size, half ? wide : (float *)context + row * size);
        if (half)
#pragma omp simd
            for (long long at = 0; at < size; at++)
                put(context, row * size + at, half, wide[at]);
    }
}

/* Additive attention: writes factors (rows, units), weights (rows, regions) and context (rows, size) of keys exp(2 k)
   (images, regions, units) and memory (images, regions, size). The first of the `width` numbers of a row of `projected`
   are its query; `factors` may take their place. Without `image` every image has `each` rows, one after the other. */
void attend(const float *keys, const void *projected, const float *score, const float *memory, const long long *image,
            long long each, long long rows, long long regions, long long units, long long width, long long size,
            float *factors, float *weights, void *context, int half)
{
    long long blocks = blocks_of(rows), block;
#pragma omp parallel for schedule(static) if (rows * regions * units > SMALL)
    for (block = 0; block < blocks; block++)
        BOTH(attend_to, keys, projected, score, memory, image, each, block * rows / blocks, (block + 1) * rows / blocks,
             regions, units, width, size, factors, weights, context);
}

static inline __attribute__((always_inline)) void attend_back_of(
    const void *grad, const float *more, const float *weights, const float *seen, long long row, long long regions,
    long long size, float *energies, int half)
{
    float wide[size], mean = 0.0f;
#pragma omp simd
    for (long long at = 0; at < size; at++)
        wide[at] = get(grad, row * size + at, half);
    for (long long region = 0; region < regions; region++, seen += size) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (long long at = 0; at < size; at++)
            sum += seen[at] * wide[at];
        if (more)
            sum += more[row * regions + region];
        energies[region] = sum;
        mean += sum * weights[region];
    }
    for (long long region = 0; region < regions; region++)
        energies[region] = weights[region] * (energies[region] - mean);
}

static inline __attribute__((always_inline)) void query_gradients(
    const float *slopes, const float *score, long long row, long long units, long long width, void *grad, int half)
{
#pragma omp simd
    for (long long unit = 0; unit < units; unit++)
        put(grad, row * width + unit, half, 4.0f * score[unit] * slopes[row * units + unit]);
}

/* From the context's gradient, grad (rows, size), and one of the weights besides, `more` (rows, regions) if there is
   one, to that of the query in `projected_grad` (rows, width). Adds to keys_grad (images, regions, units) and score_grad
   (units) what `additive_gradients` adds. Scratch: energies (rows, regions), slopes (rows, units). */
void attend_backward(const float *keys, const float *factors, const float *score, const float *memory,
                 const float *weights, const void *grad, const float *more, const long long *image, long long rows,
                 long long regions, long long units, long long width, long long size, float *energies, float *slopes,
                 float *keys_grad, float *score_grad, void *projected_grad, int half)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * regions * size > SMALL)
    for (row = 0; row < rows; row++)
        BOTH(attend_back_of, grad, more, weights + row * regions, memory + image[row] * regions * size, row, regions,
             size, energies + row * regions);
    additive_gradients(keys, factors, energies, image, rows, regions, units, slopes, keys_grad, score_grad);
#pragma omp parallel for schedule(static) if (rows * units > SMALL)
    for (row = 0; row < rows; row++)
        BOTH(query_gradients, slopes, score, row, units, width, projected_grad);
}

/* 32 bits that hang on a place and a key of 64: twice two rounds of multiplying and folding, as hashes of whole numbers
   are made, with half of the key before each pair. Any place can be asked for at any time, so that a mask need not be kept. */
static inline unsigned int chance(unsigned int place, unsigned int low, unsigned int high)
{
    unsigned int x = place * 0x9e3779b1u + low;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu + high;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static inline __attribute__((always_inline)) void dropout_of(
    const void *x, long long begin, long long end, unsigned int low, unsigned int high, unsigned int below, float scale,
    void *out, int half)
{
#pragma omp simd
    for (long long at = begin; at < end; at++)
        put(out, at, half, chance((unsigned int)at, low, high) < below ? 0.0f : scale * get(x, at, half));
}

/* Writes x (count), zero where the chance is `below` and `scale` times as large elsewhere. */
void dropout(const void *x, long long count, unsigned int low, unsigned int high, unsigned int below, float scale,
             void *out, int half)
{
    long long blocks = (count + SMALL - 1) / SMALL, block;
#pragma omp parallel for schedule(static) if (count > SMALL)
    for (block = 0; block < blocks; block++) {
        long long begin = block * SMALL, end = begin + SMALL < count ? begin + SMALL : count;
        BOTH(dropout_of, x, begin, end, low, high, below, scale, out);
    }
}

static inline __attribute__((always_inline)) void gru_of(
    const void *words, const void *seen, const void *projected, const float *hidden, long long row, long long units,
    long long size, float *next, void *rounded, float *kept, int half)
{
    long long gates = 3 * row * size, own = row * (units + 3 * size) + units;
    const float *h = hidden + row * size;
    float *reset = kept + gates, *update = reset + size, *candidate = update + size, *out = next + row * size;
#pragma omp simd
    for (long long unit = 0; unit < size; unit++) {
        long long r = gates + unit, z = r + size, n = z + size, state = own + unit;
        float to_reset = get(words, r, half), to_update = get(words, z, half), to_candidate = get(words, n, half);
        if (seen) {
            to_reset += get(seen, r, half);
            to_update += get(seen, z, half);
            to_candidate += get(seen, n, half);
        }
        float a = logistic(to_reset + get(projected, state, half));
        float b = logistic(to_update + get(projected, state + size, half));
        float inside = a * get(projected, state + 2 * size, half);
        float c = tangent(to_candidate + inside), new = c + b * (h[unit] - c);
        reset[unit] = a;
        update[unit] = b;
        candidate[unit] = c;
        out[unit] = new;
        if (half && rounded)
            put(rounded, row * size + unit, half, new);
    }
}

/* A GRU's next state (rows, size) of the input's side of reset, update and candidate, the sum of words and seen (rows, 3
   size), of which the second may be missing, and of the state's side: `projected` (rows, units + 3 size) after `units`
   numbers that are another's. `rounded` is the same in half precision, if it is asked for; kept the three gates (rows, 3
   size). */
void gru(const void *words, const void *seen, const void *projected, const float *hidden, long long rows,
         long long units, long long size, float *next, void *rounded, float *kept, int half)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        if (seen)
            BOTH(gru_of, words, seen, projected, hidden, row, units, size, next, rounded, kept);
        else
            BOTH(gru_of, words, 0, projected, hidden, row, units, size, next, rounded, kept);
    }
}

static inline __attribute__((always_inline)) void gru_back_of(
    const void *grad, const void *through, const float *later, const void *projected, const float *hidden,
    const float *kept, long long row, long long units, long long size, void *input_grad, void *projected_grad,
    float *hidden_grad, int half)
{
    long long gates = 3 * row * size, own = row * (units + 3 * size) + units, first = row * size;
    const float *h = hidden + first, *reset = kept + gates, *update = reset + size, *candidate = update + size;
    float *out = hidden_grad + first;
#pragma omp simd
    for (long long unit = 0; unit < size; unit++) {
        long long r = gates + unit, z = r + size, n = z + size, state = own + unit;
        float g = grad ? get(grad, first + unit, half) : later[first + unit];
        if (grad && later)
            g += later[first + unit] + get(through, first + unit, half);
        float a = reset[unit], b = update[unit], c = candidate[unit];
        float inside = g * (1.0f - b) * (1.0f - c * c);
        float to_reset = inside * get(projected, state + 2 * size, half) * a * (1.0f - a);
        float to_update = g * (h[unit] - c) * b * (1.0f - b);
        put(input_grad, r, half, to_reset);
        put(projected_grad, state, half, to_reset);
        put(input_grad, z, half, to_update);
        put(projected_grad, state + size, half, to_update);
        put(input_grad, n, half, inside);
        put(projected_grad, state + 2 * size, half, inside * a);
        out[unit] = g * b;
    }
}

/* The gradients of the input's side (rows, 3 size), of the state's in `projected`, and of the state but for what comes
   through `projected`, hidden_grad (rows, size). The next state's gradient is `later` alone without grad; with it, grad
   (rows, size) from what was said with the state, and for the first `running` rows, which go on, what the step after
   this has left: its hidden_grad, `later`, and what came through its `projected`. */
void gru_backward(const void *grad, const void *through, const float *later, long long running, const void *projected,
              const float *hidden, const float *kept, long long rows, long long units, long long size, void *input_grad,
              void *projected_grad, float *hidden_grad, int half)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        if (grad)
            BOTH(gru_back_of, grad, through, row < running ? later : 0, projected, hidden, kept, row, units, size,
                 input_grad, projected_grad, hidden_grad);
        else
            BOTH(gru_back_of, 0, 0, later, projected, hidden, kept, row, units, size, input_grad, projected_grad,
                 hidden_grad);
    }
}

static inline __attribute__((always_inline)) void lstm_of(
    const void *const *parts, long long count, const float *cell, long long row, long long size, float *hidden,
    float *next, float *kept, int half)
{
    long long first = row * size, gates = 4 * size;
    float *incoming = kept + 5 * first, *forget = incoming + size, *candidate = forget + size;
    float *outgoing = candidate + size, *squashed = outgoing + size;
#pragma omp simd
    for (long long gate = 0; gate < gates; gate++)
        incoming[gate] = get(parts[0], row * gates + gate, half);
    for (long long part = 1; part < count; part++)
#pragma omp simd
        for (long long gate = 0; gate < gates; gate++)
            incoming[gate] += get(parts[part], row * gates + gate, half);
#pragma omp simd
    for (long long unit = 0; unit < size; unit++) {
        float i = logistic(incoming[unit]), f = logistic(forget[unit]), g = tangent(candidate[unit]);
        float o = logistic(outgoing[unit]), new = f * cell[first + unit] + i * g, t = tangent(new);
        incoming[unit] = i;
        forget[unit] = f;
        candidate[unit] = g;
        outgoing[unit] = o;
        squashed[unit] = t;
        next[first + unit] = new;
        hidden[first + unit] = o * t;
    }
}

/* An LSTM's next state and cell (rows, size) of its cell and of the sum of `count` parts of input, forget, candidate and
   output gate (rows, 4 size). Writes the gates and the next cell's tangent (rows, 5 size) to kept. */
void lstm(const void *const *parts, long long count, const float *cell, long long rows, long long size, float *hidden,
          float *next, float *kept, int half)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++)
        BOTH(lstm_of, parts, count, cell, row, size, hidden, next, kept);
}

static inline __attribute__((always_inline)) void lstm_back_of(
    const float *hidden_grad, const float *next_grad, const float *cell, const float *kept, long long row,
    long long size, void *gates_grad, float *cell_grad, int half)
{
    long long first = row * size;
    const float *incoming = kept + 5 * first, *forget = incoming + size, *candidate = forget + size;
    const float *outgoing = candidate + size, *squashed = outgoing + size;
#pragma omp simd
    for (long long unit = 0; unit < size; unit++) {
        long long at = first + unit, i = 4 * first + unit, f = i + size, g = f + size, o = g + size;
        float in = incoming[unit], keep = forget[unit], new = candidate[unit], out = outgoing[unit];
        float t = squashed[unit], inside = next_grad[at] + hidden_grad[at] * out * (1.0f - t * t);
        put(gates_grad, i, half, inside * new * in * (1.0f - in));
        put(gates_grad, f, half, inside * cell[at] * keep * (1.0f - keep));
        put(gates_grad, g, half, inside * in * (1.0f - new * new));
        put(gates_grad, o, half, hidden_grad[at] * t * out * (1.0f - out));
        cell_grad[at] = inside * keep;
    }
}

/* The gradients of each part of the gates (rows, 4 size) and of the cell (rows, size) of those of the next state and of
   the next cell (rows, size). */
void lstm_backward(const float *hidden_grad, const float *next_grad, const float *cell, const float *kept, long long rows,
               long long size, void *gates_grad, float *cell_grad, int half)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++)
        BOTH(lstm_back_of, hidden_grad, next_grad, cell, kept, row, size, gates_grad, cell_grad);
}

/* A step of RMSprop: changes weights (count) and the mean of their squared gradients, `average`. */
void rmsprop(float *weights, const float *grad, float *average, long long count, float alpha, float eps, float rate,
             float decay)
{
    long long at;
#pragma omp parallel for simd schedule(static) if (count > SMALL)
    for (at = 0; at < count; at++) {
        float g = grad[at] + decay * weights[at];
        float mean = alpha * average[at] + (1.0f - alpha) * g * g;
        average[at] = mean;
        weights[at] -= rate * g / (__builtin_sqrtf(mean) + eps);
    }
}

/* The weights of the tutorials' decoder; matrices as `rows_product` takes them. `dense` may be missing. */
struct attention_gru {
    long long size, hidden, units, dense_size, words; /* widths D, H, A, O, V */
    const float *word_gates; /* each word's part of the gates, (words, 3H) */
    const float *query, *score, *context_gates, *state_gates, *state_bias, *dense, *dense_bias, *vocabulary,
        *vocabulary_bias;
};

/* How many numbers `attention_gru_step` needs to work with. */
long long attention_gru_room(const struct attention_gru *s, long long rows)
{
    return rows * (9 * s->hidden + s->units + s->size + s->dense_size);
}

/* One step of `rows` hypotheses, `each` an image, from `state` (rows, H) to `next`, with weights (rows, N) and logits
   (rows, V). In one call, as a search's products take less time than as many calls from Python. Returns 0; 1, and does
   nothing, if a token is no word. */
int attention_gru_step(const struct attention_gru *s, const long long *tokens, const float *state, const float *keys,
                       const float *memory, long long each, long long rows, long long regions, float *room, float *next,
                       float *weights, float *logits)
{
    for (long long row = 0; row < rows; row++)
        if (tokens[row] < 0 || tokens[row] >= s->words)
            return 1;
    long long gates = 3 * s->hidden;
    float *input = room, *queries = input + rows * gates, *context = queries + rows * s->units;
    float *own = context + rows * s->size, *kept = own + rows * gates, *dense = kept + rows * gates;
    rows_product(state, s->query, 0, rows, s->hidden, s->units, queries);
    attend(keys, queries, s->score, memory, 0, each, rows, regions, s->units, s->units, s->size, queries, weights,
           context, 0);
    rows_product(context, s->context_gates, 0, rows, s->size, gates, input);
    for (long long row = 0; row < rows; row++)
        for (long long gate = 0; gate < gates; gate++)
            input[row * gates + gate] += s->word_gates[tokens[row] * gates + gate];
    rows_product(state, s->state_gates, s->state_bias, rows, s->hidden, gates, own);
    gru(input, 0, own, state, rows, 0, s->hidden, next, 0, kept, 0);
    if (s->dense)
        rows_product(next, s->dense, s->dense_bias, rows, s->hidden, s->dense_size, dense);
    rows_product(s->dense ? dense : next, s->vocabulary, s->vocabulary_bias, rows,
                 s->dense ? s->dense_size : s->hidden, s->words, logits);
    return 0;
}
