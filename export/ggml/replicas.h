// A linear of a sidecar as an operator of ggml: y_r = W_r x for the sets of parameters r = 0 … R − 1 of one matrix of
// codes, those of the block and of its replicas (docs/gguf_extension.md). A plain C interface: a program that is linked
// with ggml or llama.cpp links `refrain_ggml` and calls
//
//   refrain_replicas* up = refrain_replicas_open("model.refrain.gguf", "model.layers.3.mlp.up_proj");
//   if (up == NULL) die(refrain_last_error());
//   struct refrain_replicas_call call = {.weight = up, .x = x, .get_data = ggml_get_data, .tokens = x->ne[1],
//                                        .first = 0, .sets = refrain_replicas_sets(up), .own_inputs = 0};
//   y = ggml_custom_4d(ctx, GGML_TYPE_F32, refrain_replicas_rows(up), call.tokens, call.sets, 1, &x, 1,
//                      refrain_replicas_run, GGML_N_TASKS_MAX, &call);
//   ... compute the graph as often as you like, on the CPU backend ...
//   refrain_replicas_close(up);
//
// Shapes are ggml's, innermost axis first; all tensors are contiguous float32.
//   own_inputs 0   x [I, tokens]         y [O, tokens, R], y[r][t] = W_r x[t]      every replica reads the same input
//   own_inputs 1   x [I, tokens, R]      y [O, tokens, R], y[r][t] = W_r x[r][t]   replicas that run side by side
// One load of the codes serves several products: four sets of one token, eight tokens of a set, or eight pairs of both.
// With `sets` 1 the operator is one step of a model that runs replicas one after the other, in place of
// ggml_mul_mat(blk.3.ffn_up.weight, x). A bias is not added.
//
// Order of rows. Where the base keeps rows of q_proj and k_proj interleaved for ggml's rotary embedding (llama,
// deepseek), y has that order too, which is what ggml_rope in its place expects; it is not Hugging Face's. The order of
// all other rows is the same in both.
//
// ggml's structures are not looked into: data is found by `get_data`, and sizes are those of the call. So the library
// fits every version of ggml that has ggml_custom_4d.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define REFRAIN_API __attribute__((visibility("default")))
#else
#define REFRAIN_API
#endif

struct ggml_tensor;
typedef struct refrain_replicas refrain_replicas;

// Reads the codes of a linear, once, and the sets of parameters of its block and of all replicas of the block that have
// their own, in the order of their numbers. module: its Hugging Face path in the block. NULL, and the reason in
// refrain_last_error: a file that is missing or damaged, a linear that the sidecar does not have, a format other than
// the affine grid with one-level scales. What is returned keeps no file open and may be used by several threads.
REFRAIN_API refrain_replicas* refrain_replicas_open(const char* sidecar, const char* module);
REFRAIN_API void refrain_replicas_close(refrain_replicas* weight);  // NULL: nothing happens

// The reason of the last failure in this thread, one line; valid until the next one. "": there was none.
REFRAIN_API const char* refrain_last_error(void);

REFRAIN_API int64_t refrain_replicas_rows(const refrain_replicas* weight);     // O
REFRAIN_API int64_t refrain_replicas_columns(const refrain_replicas* weight);  // I
REFRAIN_API int64_t refrain_replicas_sets(const refrain_replicas* weight);     // R
// The number of the replica that a set is of ("model.layers.3.replica<number>"), 0 for the block itself. −1: no such
// set.
REFRAIN_API int64_t refrain_replicas_number(const refrain_replicas* weight, int64_t set);

// What the operator needs to know; a copy of its own for every node of a graph, which must live as long as the graph.
struct refrain_replicas_call {
  const refrain_replicas* weight;
  const struct ggml_tensor* x;                      // also the node's argument, so that it is computed before
  void* (*get_data)(const struct ggml_tensor* of);  // ggml_get_data
  int64_t tokens;
  int64_t first, sets;  // sets first … first + sets − 1 are multiplied: R = sets
  int64_t own_inputs;   // 0 or 1, see above
};

// A ggml_custom_op_t; userdata: a refrain_replicas_call. Tiles of 16 rows are shared among the nth threads, which do
// not wait for one another. A call that does not fit its weight is a bug of the caller and ends the program with a
// line.
REFRAIN_API void refrain_replicas_run(struct ggml_tensor* dst, int ith, int nth, void* userdata);

#ifdef __cplusplus
}
#endif
