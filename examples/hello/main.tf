# A first configuration: no provider, no account, nothing to pay. It shows where a run executes, prints while it works,
# and keeps its state. Organization, workspace and host name come from the environment: TF_CLOUD_ORGANIZATION,
# TF_WORKSPACE and TF_CLOUD_HOSTNAME.

terraform {
  cloud {}
}

variable "greeting" {
  type        = string
  default     = "hello"
  description = "What is said."
}

variable "steps" {
  type        = number
  default     = 3
  description = "How many things are made, one after the other."
}

resource "terraform_data" "greeting" {
  input = var.greeting
}

resource "terraform_data" "step" {
  count = var.steps
  input = "${terraform_data.greeting.output} ${count.index + 1}"

  provisioner "local-exec" {
    command = "echo \"step ${count.index + 1} of ${var.steps}, as $(id -un) on $(hostname)\"; sleep 0.2"
  }
}

output "greetings" {
  value = terraform_data.step[*].output
}

output "workspace" {
  value = terraform.workspace
}
