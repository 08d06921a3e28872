// The isometric network as one kernel: a block of threads runs one sample through all layers, with the weights of that sample's user.
//
// Activations never leave the multiprocessor's shared memory; weights are read from the user's row of the table, where all threads of a
// warp want the same number at once. So samples of any mix of users cost the same as those of one, but for what the cache holds.
//
// Every phase ends in a barrier, and no thread keeps a value from one to the next: compiled for the host, a phase is a loop over threads.
// Sizes are given as macros (kernel.py): CIN HEIGHT WIDTH, STEP_Y STEP_X and ROWS COLUMNS of the input adapter, C E K S L, O M CLASSES,
// THREADS LANES, TILE_E TILE_C, ROW (numbers of a row), OFFSETS (where weights lie in it), HALF (1: numbers of a row are float16).

#ifdef ISOFORM_HOST
#define KERNEL extern "C" void
#define DEVICE static inline
#define SHARED
#define EACH_THREAD(t) for (int t = 0; t < THREADS; ++t)
#define BARRIER
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define DEVICE static __device__ __forceinline__
#define EACH_THREAD(t) for (int t = threadIdx.x, once = 1; once; once = 0)
#define BARRIER __syncthreads()
#endif

#if HALF
typedef unsigned short number;
DEVICE float read(const number *p) {
#ifdef ISOFORM_HOST
    return (float)*(const _Float16 *)p;
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(*p));
    return value;
#endif
}
#else
typedef float number;
DEVICE float read(const number *p) { return *p; }
#endif

#define P (ROWS * COLUMNS)
#define GROUPS (THREADS / LANES)

enum Place { EXPAND_W, EXPAND_B, DEPTHWISE_W, DEPTHWISE_B, SQUEEZE_W, SQUEEZE_B, EXCITE_W, EXCITE_B, PROJECT_W, PROJECT_B, PLACES };

#ifdef ISOFORM_HOST
static const int OFFSET[L][PLACES] = OFFSETS;
#else
static __constant__ int OFFSET[L][PLACES] = OFFSETS;
#endif

DEVICE float relu6(float x) { return x < 0.0f ? 0.0f : (x > 6.0f ? 6.0f : x); }
DEVICE float gate(float x) { return relu6(x + 3.0f) * (1.0f / 6.0f); }
DEVICE float swish(float x) { return x * gate(x); }

// out (rows, P) = f(weight (rows, inner) · in (inner, P) + bias), a thread for TILE rows of a position
#define PRODUCT(ROWS_OUT, INNER, TILE, WEIGHT, BIAS, INPUT, STORE)                                              \
    EACH_THREAD(t) {                                                                                             \
        const int lane = t % LANES;                                                                              \
        for (int first = t / LANES * TILE; first < ROWS_OUT; first += GROUPS * TILE)                             \
            for (int p = lane; p < P; p += LANES) {                                                              \
                float sum[TILE];                                                                                 \
                for (int j = 0; j < TILE; ++j) sum[j] = read(BIAS + first + j);                                  \
                for (int i = 0; i < INNER; ++i) {                                                                \
                    const float value = INPUT;                                                                   \
                    for (int j = 0; j < TILE; ++j) sum[j] += read(WEIGHT + (first + j) * INNER + i) * value;     \
                }                                                                                                \
                for (int j = 0; j < TILE; ++j) { const int row = first + j; STORE; }                             \
            }                                                                                                    \
    }                                                                                                            \
    BARRIER

DEVICE float patch(const float *image, int p, int i) {
    const int channel = i / (STEP_Y * STEP_X), y = i / STEP_X % STEP_Y, x = i % STEP_X;
    return image[(channel * HEIGHT + p / COLUMNS * STEP_Y + y) * WIDTH + p % COLUMNS * STEP_X + x];
}

KERNEL network(const float *samples, const number *table, const int *users, const float *shared_weights, float *logits
#ifdef ISOFORM_HOST
    , int sample, float *memory
#endif
) {
#ifndef ISOFORM_HOST
    extern __shared__ float memory[];
    const int sample = blockIdx.x;
#endif
    float *x = memory, *wide = x + C * P, *deep = wide + E * P, *mean = deep + E * P, *few = mean + E, *gates = few + S;
    const number *own = table + (long long)users[sample] * ROW;
    const float *image = samples + (long long)sample * CIN * HEIGHT * WIDTH;

    PRODUCT(C, CIN * STEP_Y * STEP_X, TILE_C, (own + ADAPTER_W), (own + ADAPTER_B), patch(image, p, i), x[row * P + p] = swish(sum[j]));

    for (int layer = 0; layer < L; ++layer) {
        const int *at = OFFSET[layer];
        PRODUCT(E, C, TILE_E, (own + at[EXPAND_W]), (own + at[EXPAND_B]), x[i * P + p], wide[row * P + p] = swish(sum[j]));
        EACH_THREAD(t) {
            for (int e = t / LANES; e < E; e += GROUPS)
                for (int p = t % LANES; p < P; p += LANES) {
                    const int top = p / COLUMNS - K / 2, left = p % COLUMNS - K / 2;
                    float sum = read(own + at[DEPTHWISE_B] + e);
                    for (int dy = 0; dy < K; ++dy)
                        for (int dx = 0; dx < K; ++dx) {
                            const int row = top + dy, column = left + dx;
                            if (row >= 0 && row < ROWS && column >= 0 && column < COLUMNS)
                                sum += read(own + at[DEPTHWISE_W] + (e * K + dy) * K + dx) * wide[e * P + row * COLUMNS + column];
                        }
                    deep[e * P + p] = swish(sum);
                }
        }
        BARRIER;
        EACH_THREAD(t) {
            for (int e = t; e < E; e += THREADS) {
                float sum = 0.0f;
                for (int i = 0; i < P; ++i) sum += deep[e * P + (i + e) % P];  // from another place each: rows begin in the same memory bank
                mean[e] = sum / P;
            }
        }
        BARRIER;
        EACH_THREAD(t) {
            for (int s = t; s < S; s += THREADS) {
                float sum = read(own + at[SQUEEZE_B] + s);
                for (int e = 0; e < E; ++e) sum += read(own + at[SQUEEZE_W] + s * E + e) * mean[e];
                few[s] = sum > 0.0f ? sum : 0.0f;
            }
        }
        BARRIER;
        EACH_THREAD(t) {
            for (int e = t; e < E; e += THREADS) {
                float sum = read(own + at[EXCITE_B] + e);
                for (int s = 0; s < S; ++s) sum += read(own + at[EXCITE_W] + e * EXCITE_COLUMNS + s) * few[s];
                gates[e] = gate(sum);
            }
        }
        BARRIER;
        PRODUCT(C, E, TILE_C, (own + at[PROJECT_W]), (own + at[PROJECT_B]), deep[i * P + p] * gates[i], x[row * P + p] += sum[j]);
    }

    float *pooled = wide, *features = wide + (O > E * P ? O : E * P);  // what lay there is not needed any more
    EACH_THREAD(t) {
        for (int o = t; o < O; o += THREADS) {
            float weights[C], total = 0.0f;
            for (int c = 0; c < C; ++c) weights[c] = read(own + OUTPUT_W + o * C + c);
            for (int p = 0; p < P; ++p) {
                float sum = read(own + OUTPUT_B + o);
                for (int c = 0; c < C; ++c) sum += weights[c] * x[c * P + p];
                total += swish(sum);
            }
            pooled[o] = total / P;
        }
    }
    BARRIER;
    EACH_THREAD(t) {
        for (int m = t; m < M; m += THREADS) {
            float sum = shared_weights[M * O + m];
            for (int o = 0; o < O; ++o) sum += shared_weights[o * M + m] * pooled[o];  // transposed, so that threads read side by side
            features[m] = swish(sum);
        }
    }
    BARRIER;
    EACH_THREAD(t) {
        for (int k = t; k < CLASSES; k += THREADS) {
            float sum = read(own + LOGITS_B + k);
            for (int m = 0; m < M; ++m) sum += read(own + LOGITS_W + k * M + m) * features[m];
            logits[(long long)sample * CLASSES + k] = sum;
        }
    }
}
