"""Print the folder of the tasks, for ``lm_eval --include_path``."""

from dpg_fast.evaluation.harness_tasks import tasks_folder

if __name__ == "__main__":
    print(tasks_folder())
