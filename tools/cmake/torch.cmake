# LibTorch as the target `refrain_torch`: Torch_DIR or CMAKE_PREFIX_PATH if it is new enough, else the wheel in .venv.
# Three things must be right, or the build breaks or runs on one thread; each is met below.
file(GLOB wheel ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch/share/cmake/Torch)
find_package(Torch 2.13 REQUIRED PATHS ${wheel})

# 1. The wheel has another fmt among its headers. Searched last, they leave us the system's, which its spdlog needs.
foreach(target torch torch_library torch_cpu c10)
  if(NOT TARGET ${target})
    continue()
  endif()
  get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "" INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "")
  foreach(dir IN LISTS dirs)
    if(dir AND NOT dir MATCHES "^\\$<")  # an empty entry would swallow the next flag
      target_compile_options(${target} INTERFACE "SHELL:-idirafter ${dir}")
    endif()
  endforeach()
endforeach()
add_library(refrain_torch INTERFACE)
target_link_libraries(refrain_torch INTERFACE torch)

# 2. at::parallel_for is inline: serial without -fopenmp; two OpenMP libraries in one process abort. So LibTorch's own.
find_library(TORCH_OPENMP NAMES libgomp.so.1 libomp.dylib libiomp5.so libiomp5.dylib
             PATHS ${TORCH_INSTALL_PREFIX}/lib NO_DEFAULT_PATH)
if(APPLE)
  find_path(OMP_INCLUDE omp.h PATHS /opt/homebrew/opt/libomp/include /usr/local/opt/libomp/include REQUIRED)
  target_compile_options(refrain_torch INTERFACE "SHELL:-Xclang -fopenmp" "SHELL:-isystem ${OMP_INCLUDE}")
elseif(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(refrain_torch INTERFACE -fopenmp)
else()
  message(FATAL_ERROR "${CMAKE_CXX_COMPILER_ID} brings an OpenMP library of its own. Set CXX=g++.")
endif()
if(TORCH_OPENMP)
  target_link_libraries(refrain_torch INTERFACE ${TORCH_OPENMP})
else()  # a LibTorch that was built against the system's
  find_package(OpenMP REQUIRED)
  target_link_libraries(refrain_torch INTERFACE OpenMP::OpenMP_CXX)
endif()

# 3. ccache understands a precompiled header only so.
if(REFRAIN_PCH AND REFRAIN_CCACHE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(refrain_torch INTERFACE -fpch-preprocess)
  else()
    target_compile_options(refrain_torch INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
  endif()
endif()
