#include "export/ggml/replicas.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "core/error.h"
#include "export/ggml/read_replicas.h"

namespace {

namespace kernels = quant::kernels;

// What a thread keeps from call to call.
struct Buffers {
  kernels::Inputs inputs;
  std::vector<float> beside;  // inputs that are multiplied together
};

Buffers& thread_buffers() {
  thread_local Buffers buffers;
  return buffers;
}

// The tiles of one thread in one call. Products are numbered r · tokens + t, as they lie in y.
struct Share {
  const refrain_replicas& weight;
  const kernels::Parameters* sets;  // [R]
  int64_t R, tokens, first, last;   // tiles
  const float* x;
  float* y;

  int64_t rows() const { return weight.layout.rows; }
  int64_t columns() const { return weight.layout.columns; }

  // Products p, p + 1, … of the prepared inputs.
  void multiply(const kernels::Inputs& inputs, const kernels::Parameters* from, int64_t count, int64_t p) const {
    const kernels::Product product{&weight.layout, weight.words.data(), from, count, &inputs, y + p * rows(), rows()};
    weight.kernel->run(product, first, last);
  }

  // All sets on every input, eight tokens at a time.
  void run_sets() const {
    kernels::Inputs& inputs = thread_buffers().inputs;
    for (int64_t t = 0; t < tokens; t += kernels::kMostInputs) {
      const int64_t n = std::min(kernels::kMostInputs, tokens - t);
      inputs.prepare(weight.layout, kernels::Precision::real, x + t * columns(), n, columns());
      if (tokens == 1) return multiply(inputs, sets, R, 0);
      for (int64_t r = 0; r < R; ++r) multiply(inputs, sets + r, 1, r * tokens + t);
    }
  }

  // Eight products at a time, each with its own set. are_own: every one has an input of its own, too.
  void run_pairs(bool are_own) const {
    auto& [inputs, beside] = thread_buffers();
    std::array<kernels::Parameters, kernels::kMostInputs> each;
    for (int64_t p = 0, n = 0; p < R * tokens; p += n) {
      n = std::min(kernels::kMostInputs, R * tokens - p);
      for (int64_t j = 0; j < n; ++j) each[static_cast<size_t>(j)] = sets[(p + j) / tokens];
      const bool is_one_set = p / tokens == (p + n - 1) / tokens;
      const float* from = x + p * columns();
      if (!are_own) {
        beside.resize(static_cast<size_t>(n * columns()));
        from = beside.data();
        for (int64_t j = 0; j < n; ++j)
          std::copy_n(x + (p + j) % tokens * columns(), columns(), beside.begin() + j * columns());
      }
      inputs.prepare(weight.layout, kernels::Precision::real, from, n, columns());
      multiply(inputs, each.data(), is_one_set ? 1 : n, p);
    }
  }
};

bool fits(const refrain_replicas_call& call) {
  return call.weight != nullptr && call.x != nullptr && call.get_data != nullptr && call.tokens >= 0 &&
         call.first >= 0 && call.sets >= 1 && call.sets <= std::ssize(call.weight->sets) - call.first;
}

thread_local std::string last_error;

}  // namespace

refrain_replicas* refrain_replicas_open(const char* sidecar, const char* module) {
  try {
    core::require(sidecar != nullptr && module != nullptr, "refrain_replicas_open: a name is missing. Give both.");
    return exports::read_replicas(sidecar, module).release();
  } catch (const std::exception& error) {
    last_error = error.what();
    return nullptr;
  }
}

void refrain_replicas_close(refrain_replicas* weight) { delete weight; }

const char* refrain_last_error() { return last_error.c_str(); }

int64_t refrain_replicas_rows(const refrain_replicas* weight) { return weight->layout.rows; }
int64_t refrain_replicas_columns(const refrain_replicas* weight) { return weight->layout.columns; }
int64_t refrain_replicas_sets(const refrain_replicas* weight) { return std::ssize(weight->sets); }

int64_t refrain_replicas_number(const refrain_replicas* weight, int64_t set) {
  return set >= 0 && set < std::ssize(weight->numbers) ? weight->numbers[static_cast<size_t>(set)] : -1;
}

void refrain_replicas_run(ggml_tensor* dst, int ith, int nth, void* userdata) {
  const auto& call = *static_cast<const refrain_replicas_call*>(userdata);
  if (!fits(call)) {
    std::fputs("refrain_replicas_run: the call does not fit its weight. Ask for sets that it has.\n", stderr);
    std::abort();
  }
  const int64_t tiles = call.weight->layout.tiles(), first = tiles * ith / nth, last = tiles * (ith + 1) / nth;
  if (first == last) return;
  const Share share{*call.weight,
                    call.weight->sets.data() + call.first,
                    call.sets,
                    call.tokens,
                    first,
                    last,
                    static_cast<const float*>(call.get_data(call.x)),
                    static_cast<float*>(call.get_data(dst))};
  const bool are_own = call.own_inputs != 0, pays = call.tokens > 1 && call.tokens < kernels::kMostInputs;
  are_own || (pays && call.sets > 1) ? share.run_pairs(are_own) : share.run_sets();
}
