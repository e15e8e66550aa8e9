// Products with packed codes: what a kernel is given, and the table of kernels.
//
// One load of the codes serves several inputs, several sets of parameters on one input, or inputs with a set each:
//   inputs      y[j, o] = Σ_g s[o, g] Σ_{i in g} (k[o, i] − z[o, g]) x[j, i]        j < count
//   sets        y[r, o] = Σ_g s_r[o, g] Σ_{i in g} (k[o, i] − z_r[o, g]) x[i]       r < count
//   both        y[j, o] = Σ_g s_j[o, g] Σ_{i in g} (k[o, i] − z_j[o, g]) x[j, i]    j < count
// Several sets are those of linears that share their codes. (Of one linear their sum would be one set: there they are a
// measurement of what they cost.) With a table, which is that of all sets, s table[k] takes the place of s (k − z);
// codes with a table (of windows, too) are multiplied with `real` inputs only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/kernels/inputs.h"
#include "quant/kernels/layout.h"

namespace quant::kernels {

struct Product {
  const Layout* layout = nullptr;
  const uint32_t* codes = nullptr;   // as fill_codes makes them
  const Parameters* sets = nullptr;  // [set_count]
  int64_t set_count = 1;             // one for all inputs, one for each of them, or several for one input
  const Inputs* inputs = nullptr;
  float* out = nullptr;    // [inputs or sets, out_stride], rows of it written
  int64_t out_stride = 0;  // elements
};

struct Kernel {
  std::string name;
  bool runs_here;                                                    // on this CPU
  void (*run)(const Product& product, int64_t first, int64_t last);  // tiles first … last − 1
};

// All that were compiled, the best first; the last one, `reference`, is plain C++ and runs everywhere.
const std::vector<Kernel>& kernels();

// The best that runs here, or the one that REFRAIN_KERNEL names. Error (core::UserError): no such kernel, or one that
// this CPU does not run.
const Kernel& chosen_kernel();
const Kernel& kernel_named(const std::string& name);

// The plain loops.
void reference_product(const Product& product, int64_t first, int64_t last);

}  // namespace quant::kernels
