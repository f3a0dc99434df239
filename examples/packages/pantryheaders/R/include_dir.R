include_dir <- function() {
  system.file("include", package = "pantryheaders")
}
