# find_package(uvfio) and then target_link_libraries(... uvfio::uvfio).
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(fmt)
find_dependency(spdlog)
find_dependency(PkgConfig)
pkg_check_modules(urcu REQUIRED IMPORTED_TARGET liburcu-bp)
pkg_check_modules(liburing REQUIRED IMPORTED_TARGET liburing>=2.3)
include(${CMAKE_CURRENT_LIST_DIR}/uvfio-targets.cmake)
