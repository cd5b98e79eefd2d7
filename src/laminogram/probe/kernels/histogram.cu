// Counts of |x| by logarithmic bins, as `LogHistogram` makes them, in one read. CUDA C, because
// Triton has no counters in shared memory.
//
// A block counts into COPIES tables of its own, so that warps meet less often, and adds them to the
// running counts at the end. The bin comes from the leading 8 places after the first: their middle
// is never near an edge, so an approximate logarithm names the right bin for every one of them.
//
// DTYPE: 0 float32, 1 bfloat16, 2 float16.

#define BINS 1280
#define FIELDS (BINS + 4)  // zero, underflow, the bins, overflow, not finite

__device__ __forceinline__ int field_of(unsigned int bits) {
    bits &= 0x7fffffffu;
    const float middle = __uint_as_float((bits & 0x007f8000u) | 0x3f804000u);  // from 1 to 2
    float place;
    asm("lg2.approx.f32 %0, %1;" : "=f"(place) : "f"(middle));
    int bin = ((int)(bits >> 23) - 87) * 16 + __float2int_rd(place * 16.0f);
    bin = max(-1, min(BINS, bin)) + 2;
    bin = bits == 0u ? 0 : bin;
    return bits >= 0x7f800000u ? FIELDS - 1 : bin;
}

__device__ __forceinline__ unsigned int wide(unsigned int half) {
#if DTYPE == 1
    return half << 16;
#else
    float out;
    asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(out) : "r"(half));
    return __float_as_uint(out);
#endif
}

__device__ __forceinline__ void count(int* table, unsigned int word) {
#if DTYPE == 0
    atomicAdd(table + field_of(word), 1);
#else
    atomicAdd(table + field_of(wide(word & 0xffffu)), 1);
    atomicAdd(table + field_of(wide(word >> 16)), 1);
#endif
}

// x: (rows, tokens, vectors) of 16 bytes; lengths (rows): tokens that count, from the first on;
// counts (FIELDS): int64.
extern "C" __global__ void histogram(
    const uint4* __restrict__ x, const int* __restrict__ lengths,
    unsigned long long* __restrict__ counts, int rows, int tokens, int vectors) {
    __shared__ int tables[COPIES * FIELDS];
    for (int i = threadIdx.x; i < COPIES * FIELDS; i += blockDim.x) tables[i] = 0;
    __syncthreads();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    int* table = tables + (warp % COPIES) * FIELDS;
    for (int token = blockIdx.x * warps + warp; token < rows * tokens; token += gridDim.x * warps) {
        const int row = token / tokens;
        if (token - row * tokens >= lengths[row]) continue;
        const uint4* at = x + (long long)token * vectors;
#pragma unroll 8
        for (int i = lane; i < vectors; i += 32) {
            const uint4 v = at[i];
            count(table, v.x);
            count(table, v.y);
            count(table, v.z);
            count(table, v.w);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < FIELDS; i += blockDim.x) {
        int sum = 0;
        for (int copy = 0; copy < COPIES; ++copy) sum += tables[copy * FIELDS + i];
        if (sum) atomicAdd(counts + i, (unsigned long long)sum);
    }
}
