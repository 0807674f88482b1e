/* What each word does with the regions of its picture, in one pass over them. What is computed, and of what, is said
   in additive.py and in loop.py. All arrays are contiguous; image[row] is the picture of a row. */

#define ROWS 16  /* of a block, which a thread takes whole */
#define WIDE 128 /* units of which the keys of some pictures stay in a core's cache while their rows are gone through */
#define PART 64  /* numbers of a row whose sums stay in registers */
#define SMALL 32768 /* multiplications that are done sooner than a second thread has been woken */

/* keys (images, regions, units), factors (rows, units), score (units), energies (rows, regions). Without `image` every
   picture has `each` rows, one after the other. */
void additive_energies(const float *keys, const float *factors, const float *score, const long long *image,
                       long long each, long long rows, long long regions, long long units, float *energies)
{
    long long blocks = (rows + ROWS - 1) / ROWS, block;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (block = 0; block < blocks; block++) {
        long long begin = block * ROWS, end = begin + ROWS < rows ? begin + ROWS : rows;
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

/* out (rows, columns) = x (rows, inner) times matrix (images, inner, columns) of the row's picture. */
void picture_product(const float *matrix, const float *x, const long long *image,
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
void picture_product_back(const float *matrix, const float *grad, const long long *image,
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
